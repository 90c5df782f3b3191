"""What a route is given: the registry it belongs to, and the call that it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar, cast
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import Request

from hubstate_registry.auth import Principal, Role
from hubstate_registry.bodies import stream_body
from hubstate_registry.errors import BadRequest, Forbidden, Gated, RepoNotFound, Unauthorized
from hubstate_registry.limits import Bucket
from hubstate_registry.metrics import Metrics
from hubstate_registry.names import RepoId, encodes, parse_repo, shorten
from hubstate_registry.settings import Settings
from hubstate_registry.storage import Storage, blobs, references, repositories
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.glance import Beyond, Glance
from hubstate_registry.storage.references import Actor
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

if TYPE_CHECKING:
    from hubstate_registry.dispatch import Rule

__all__ = ["Call", "Extension", "Moved", "Registry"]

T = TypeVar("T")
_NO_QUERY = QueryParams()
View = Connection | Glance
_MOST_FACTS = 10_000
_MOST_LETTERS = 200  # of a revision whose commit is remembered
_FEW = 500  # files of a tree that take no time worth a thread
_FEW_BLOBS = 20  # that are looked up one by one


class Extension(Protocol):
    """Another way in which bytes come and go; Xet is one. See README.md."""

    name: str

    def rules(self) -> Sequence[Rule]:
        """Routes to add."""

    def resolve_headers(
        self, call: Call, repository: Repository, *, commit: str, blob: Blob
    ) -> Mapping[str, str]:
        """Headers that tell a downloader of this other way, for the file it asks for."""

    def read(self, blob: Blob, *, start: int, stop: int) -> Iterator[bytes]:
        """A byte range of a blob that is stored only in this other way."""

    def close(self) -> None:
        """Leave off what runs in the background; the registry stops."""


@dataclass(slots=True, kw_only=True)
class Registry:
    """One registry, as its routes see it."""

    settings: Settings
    storage: Storage
    metrics: Metrics
    requests: Bucket
    failures: Bucket
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    ready: bool = False


class Moved(Exception):
    """The repository is elsewhere; the answer is a redirect that keeps method and body."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, read as far as all routes need it."""

    registry: Registry
    request: Request
    principal: Principal
    params: Mapping[str, str]
    body: object = None
    """The parsed JSON or form, where the rule says that there is one."""
    raw_repo: str = ""
    """The repository's id as it stands in the path, percent-encoded."""
    facts: dict[object, object] | None = None
    """What is known since the database last changed, where the answer may rest on that."""
    in_loop: bool = False
    """Whether this runs in the event loop, where nothing may take long: a glance is all."""

    @property
    def storage(self) -> Storage:
        """Where everything is kept."""
        return self.registry.storage

    @property
    def actor(self) -> Actor:
        """The caller, for the audit log."""
        request = str(self.request.scope["state"].get("request_id", ""))
        user = self.principal.user or "anonymous"
        return Actor(user=user, token=self.principal.token, request=request)

    def read(self) -> AbstractContextManager[Connection]:
        """A view of the database; in the event loop a glance, which can do far less."""
        if self.in_loop:
            return nullcontext(cast(Connection, self.storage.glance))
        return self.storage.database.read()

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction."""
        return self.storage.database.write()

    def url(self, path: str) -> str:
        """An absolute address on this server, as the caller knows it."""
        base = self.registry.settings.base_url or str(self.request.base_url)
        return base.rstrip("/") + path

    def page_url(self, **query: str) -> str:
        """The address of this very request with other query parameters."""
        own = self.request.url.include_query_params(**query)
        return self.url(self.request.scope["raw_path"].decode("latin-1") + f"?{own.query}")

    @property
    def query(self) -> QueryParams:
        """The query of the address."""
        return self.request.query_params if self.request.scope["query_string"] else _NO_QUERY

    def fields(self) -> Mapping[str, object]:
        """The body, which must be a JSON object.

        Raises:
            BadRequest: it is anything else.
        """
        if not isinstance(self.body, dict):
            raise BadRequest("the body must be a JSON object")
        return self.body

    def stream(self, limit: int) -> AsyncIterator[bytearray]:
        """The body as it arrives, up to ``limit`` bytes."""
        limits = self.registry.settings.limits
        return stream_body(self.request.scope, self.request.receive, limit=limit, limits=limits)

    def need_user(self) -> None:
        """Refuse callers without a token.

        Raises:
            Unauthorized: there is none.
        """
        if self.principal.user is None:
            raise Unauthorized("A token is needed; log in with `hf auth login`")

    def may_read(self, repository: Repository) -> bool:
        """Whether this caller may know of a repository."""
        if self.principal.role(repository.id.namespace) >= Role.READ:
            return True
        known = self.registry.settings.anonymous or self.principal.user is not None
        return known and not repository.private

    def find(self, connection: View, id: RepoId, *, role: Role = Role.READ) -> Repository:
        """The repository of this id, for a caller who has ``role`` in its namespace.

        Raises:
            RepoNotFound: it is not there, or the caller may not read it.
            Unauthorized: the caller has no token and needs one.
            Forbidden: the caller may read it and not do this.
        """

        def find() -> Repository | None:
            if isinstance(connection, Glance):
                return connection.repository(id)
            return repositories.find(connection, id)

        found = self.known(("repository", id), find)
        if found is None or not self.may_read(found):
            raise RepoNotFound(str(id))
        if role > Role.READ:
            self.need_role(found.id.namespace, role=role)
        return found

    def need_role(self, namespace: str, *, role: Role) -> None:
        """Refuse callers who have less than ``role`` in a namespace.

        Raises:
            Unauthorized: the caller has no token.
            Forbidden: the caller has less.
        """
        self.need_user()
        if self.principal.role(namespace) < role:
            raise Forbidden(f"Your token has no {role} access to {namespace or 'this repository'}")

    def repository(self, connection: View, *, role: Role = Role.READ) -> Repository:
        """The repository that the path names.

        Raises:
            RepoNotFound: it is not there, or the caller may not read it.
            Moved: it has another id now.
            Unauthorized: the caller has no token and needs one.
            Forbidden: the caller may read it and not do this.
        """
        id = parse_repo(self.params["repo"])
        found = self.find(connection, id)
        if found.id.key != id.key:
            raise Moved(self._location(found.id))
        if role > Role.READ:
            self.need_role(found.id.namespace, role=role)
        return found

    def need_files(self, repository: Repository) -> None:
        """Refuse the files of a gated repository to all but members of its namespace.

        Raises:
            Gated: it is one, and the caller is none.
        """
        if repository.gated and self.principal.role(repository.id.namespace) < Role.READ:
            raise Gated(f"Access to model {repository.id} is restricted to members")

    def commit(self, connection: View, repository: Repository) -> str:
        """The commit of the path's revision, ``main`` if it has none.

        Raises:
            RevisionNotFound: there is none.
            BadRequest: the revision is no text.
        """
        revision = self.params.get("revision") or "main"
        if not encodes(revision) or "\0" in revision:
            raise BadRequest(f"no revision is called {shorten(revision)}")

        def resolve() -> str:
            if isinstance(connection, Glance):
                return connection.head(repository, branch=revision)
            return references.resolve(connection, repository, revision=revision)

        if len(revision) > _MOST_LETTERS:
            return resolve()
        return self.known(("commit", repository.number, revision), resolve)

    def tree(self, connection: View, repository: Repository) -> tuple[str, Tree]:
        """The commit of the path's revision, and its files.

        Raises:
            RevisionNotFound: there is none.
        """
        commit = self.commit(connection, repository)
        tree = self.storage.tree(connection, repository, commit=commit)
        if self.in_loop and len(tree) > _FEW:
            raise Beyond
        return commit, tree

    def blobs(self, connection: View, digests: Iterable[str]) -> Mapping[str, Blob]:
        """Where these bytes are, by their digests; without those that are not stored."""
        facts = {} if self.facts is None else self.facts
        wanted = set(digests)
        missing = [digest for digest in wanted if ("blob", digest) not in facts]
        found = {digest: cast(Blob, facts["blob", digest]) for digest in wanted.difference(missing)}
        for blob in _find_blobs(connection, missing):
            found[blob.sha256] = blob
            if len(facts) < _MOST_FACTS:
                facts["blob", blob.sha256] = blob
        return found

    def known(self, key: Hashable, find: Callable[[], T]) -> T:
        """What is known, or what is found now, and then known until the database changes."""
        if self.facts is not None and key in self.facts:
            return cast(T, self.facts[key])
        found = find()
        if self.facts is not None and len(self.facts) < _MOST_FACTS:
            self.facts[key] = found
        return found

    def _location(self, id: RepoId) -> str:
        path = self.request.scope["raw_path"].decode("latin-1")
        query = self.request.scope["query_string"].decode("latin-1")
        moved: str = path.replace(f"/{self.raw_repo}", f"/{quote(str(id))}", 1)
        return f"{moved}?{query}" if query else moved


def _find_blobs(connection: View, digests: Sequence[str]) -> Sequence[Blob]:
    if not isinstance(connection, Glance):
        return blobs.find_many(connection, digests)
    if len(digests) > _FEW_BLOBS:
        raise Beyond
    return [connection.blob(digest) for digest in digests]
