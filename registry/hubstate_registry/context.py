"""What a route is given: the call that it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TypeVar, cast
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from hubstate_registry.addresses import Moved, Place, Query
from hubstate_registry.auth import ANONYMOUS, Role
from hubstate_registry.bodies import stream_body
from hubstate_registry.errors import BadRequest, Forbidden, Gated, RepoNotFound, Unauthorized
from hubstate_registry.memory import Facts, Memory
from hubstate_registry.names import RepoId, encodes, shorten
from hubstate_registry.registry import Registry
from hubstate_registry.storage import Storage, blobs, references, repositories
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.glance import Beyond, Glance
from hubstate_registry.storage.references import Actor
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

__all__ = ["Call"]

T = TypeVar("T")
View = Connection | Glance
_MOST_LETTERS = 200  # of a revision whose commit is remembered
_FEW = 500  # files of a tree that take no time worth a thread
_NOBODYS = RepoId(namespace="", name="")  # which no repository has: to look for it is Beyond


class Call:
    """One request, read as far as all routes need it."""

    principal = ANONYMOUS
    data = b""
    """The body, where the rule says that it is read."""
    body: object = None
    """The JSON in it, where the rule says that there is some."""
    memory: Memory | None = None
    """Where this runs in the event loop, which takes only what is known or found at a glance."""
    facts: Facts | None = None
    """What is known of the repository, once that is found, and of everything before."""

    _charged = False

    def __init__(self, registry: Registry, place: Place, *, scope: Scope, receive: Receive) -> None:
        self.registry = registry
        self.place = place
        self.scope = scope
        self.receive = receive

    def charge(self, requests: int) -> None:
        """Count this request as so many more; once, however often its handler begins.

        Raises:
            TooMany: the caller has not so many left.
        """
        if requests > 0 and not self._charged:
            self.registry.requests.take(self.caller, requests)
            self._charged = True

    def rely_on(self, memory: Memory) -> None:
        """Let the answer rest on what is remembered."""
        self.memory = memory
        self.facts = memory.anything

    @cached_property
    def request(self) -> Request:
        """The request, as Starlette reads it."""
        return Request(self.scope, self.receive)

    @cached_property
    def query(self) -> Query:
        """The query of the address."""
        return Query(self.scope["query_string"])

    def header(self, name: bytes) -> str | None:
        """A header of the request, by its name in lower case."""
        value = self.scope["state"]["headers"].get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def params(self) -> Mapping[str, str]:
        """The words of the path."""
        return self.place.params

    @property
    def base(self) -> Hashable:
        """What an answer depends on that holds an address of this server."""
        if self.registry.settings.base_url:
            return None
        host = self.scope["state"]["headers"].get(b"host")
        return self.scope["scheme"], host or self.scope.get("server")

    @property
    def storage(self) -> Storage:
        """Where everything is kept."""
        return self.registry.storage

    @property
    def caller(self) -> str:
        """Whose requests are counted together: those of a token, or else of an address."""
        client = self.scope.get("client")
        return self.principal.token or (client[0] if client else "")

    @property
    def actor(self) -> Actor:
        """The caller, for the audit log."""
        request = str(self.scope["state"].get("request_id", ""))
        user = self.principal.user or "anonymous"
        return Actor(user=user, token=self.principal.token, request=request)

    def read(self) -> AbstractContextManager[Connection]:
        """A view of the database; in the event loop a glance, which can do far less."""
        if self.memory is not None:
            return self.memory.view
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
        return self.url(self.scope["raw_path"].decode("latin-1") + f"?{own.query}")

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
        return stream_body(self.scope, self.receive, limit=limit, limits=limits)

    def need_user(self) -> None:
        """Refuse callers without a token.

        Raises:
            Unauthorized: there is none.
        """
        if self.principal.user is None:
            raise Unauthorized("A token is needed; log in with `hf auth login`")

    def may_read(self, repository: Repository) -> bool:
        """Whether this caller may know of a repository."""
        if repository.private or not (self.principal.user or self.registry.settings.anonymous):
            return self.principal.role(repository.id.namespace) >= Role.READ
        return True

    def find(self, connection: View, id: RepoId, *, role: Role = Role.READ) -> Repository:
        """The repository of this id, for a caller who has ``role`` in its namespace.

        Raises:
            RepoNotFound: it is not there, or the caller may not read it.
            Unauthorized: the caller has no token and needs one.
            Forbidden: the caller may read it and not do this.
        """
        if isinstance(connection, Glance):
            found: Repository | None = self._look(connection, id)
        else:
            found = self.known(("repository", id), lambda: repositories.find(connection, id))
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
        found = self.find(connection, self.place.id)
        if self.memory is None and found.id.key != self.place.id.key:
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
        revision = self.place.revision
        if not encodes(revision) or "\0" in revision:
            raise BadRequest(f"no revision is called {shorten(revision)}")

        def resolve() -> str:
            if isinstance(connection, Glance):
                return connection.head(repository, branch=revision)
            return references.resolve(connection, repository, revision=revision)

        if len(revision) > _MOST_LETTERS:
            return resolve()
        return self.known(("commit", repository.number, revision), resolve)

    def tree(self, connection: View, repository: Repository, *, commit: str) -> Tree:
        """The files of a commit.

        Raises:
            RevisionNotFound: there is no such commit.
        """
        tree = self.storage.tree(connection, repository, commit=commit)
        if self.memory is not None and len(tree) > _FEW:
            raise Beyond
        return tree

    def blobs(self, connection: View, digests: Iterable[str]) -> Mapping[str, Blob]:
        """Where these bytes are, by their digests; without those that are not stored."""
        facts = {} if self.facts is None else self.facts
        wanted = set(digests)
        found = {d: cast(Blob, facts["blob", d]) for d in wanted if ("blob", d) in facts}
        missing = list(wanted.difference(found))
        if isinstance(connection, Glance):
            rows = connection.blobs(missing)
        else:
            rows = blobs.find_many(connection, missing)
        for blob in rows:
            found[blob.sha256] = blob
            if self.facts is not None:
                self.facts.keep(("blob", blob.sha256), blob)
        return found

    def known(self, key: Hashable, find: Callable[[], T]) -> T:
        """What is known, or what is found now, and then known until it may have changed."""
        if self.facts is None:
            return find()
        if key not in self.facts:
            found = find()
            self.facts.keep(key, found)
            return found
        return cast(T, self.facts[key])

    def again(self, key: Hashable, make: Callable[[], Response]) -> Response:
        """The answer that this key had before, or the one that is made now.

        Of all that an answer is made of, the key names what is neither a fact about the
        repository nor the caller's right to see it.
        """
        facts = self.facts
        if facts is None:
            return make()
        if (kept := facts.get(key)) is not None:
            return cast(Response, kept)
        made = make()
        # plain ones can be sent again as they are; others say whether they can
        repeats = getattr(made, "repeats", type(made) is Response)
        if made.status_code == 200 and repeats:
            facts.keep(key, made, size=len(repr(key)) + len(getattr(made, "body", b"")))
        return made

    def _look(self, glance: Glance, id: RepoId) -> Repository:
        memory = cast(Memory, self.memory)
        known = memory.find(id)
        if known is None:
            look = glance.look(id, branch=self.place.revision)
            known = memory.learn(look.repository)
            if look.commit is not None:
                key = ("commit", look.repository.number, self.place.revision)
                known.facts.keep(key, look.commit)
        if not self.may_read(known.repository):  # the time must not tell that there is one
            glance.look(_NOBODYS, branch=self.place.revision)
        self.facts = known.facts
        return known.repository

    def _location(self, id: RepoId) -> str:
        path = self.scope["raw_path"].decode("latin-1")
        query = self.scope["query_string"].decode("latin-1")
        moved: str = path.replace(f"/{self.place.raw_repo}", f"/{quote(str(id))}", 1)
        return f"{moved}?{query}" if query else moved
