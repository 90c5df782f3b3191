"""Repositories: create, delete, move, duplicate, settings, info."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import JSONResponse, Response

from hubstate_registry.auth import Role
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest, Conflict, Forbidden
from hubstate_registry.names import RepoId, parse_digest, parse_name, parse_namespace, parse_repo
from hubstate_registry.routes import render
from hubstate_registry.storage import accounts, blobs, commits, references, repositories, schema
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

__all__ = ["RULES"]

_FILES = 1000


def create(call: Call) -> Response:
    """Make a repository, with an empty first commit on ``main``."""
    call.need_user()
    id = _named(call)
    private = _private(call)
    with call.write() as connection:
        _need_namespace(connection, call, id.namespace)
        try:
            repository = repositories.create(connection, id, private=bool(private))
        except Conflict as error:
            raise _taken(call, id, error) from error
        references.note(connection, repository, action="create repository", actor=call.actor)
        commits.start(connection, repository, actor=call.actor)
    return JSONResponse({"url": call.url(f"/{id}"), "name": str(id), "id": str(id)})


def delete(call: Call) -> Response:
    """Remove a repository."""
    with call.write() as connection:
        repository = call.find(connection, _named(call), role=Role.ADMIN)
        references.note(connection, repository, action="delete repository", actor=call.actor)
        repositories.delete(connection, repository)
    return JSONResponse({})


def move(call: Call) -> Response:
    """Give a repository another id; the old one redirects."""
    _models_only(call)
    fields = call.fields()
    source, target = parse_repo(fields.get("fromRepo")), parse_repo(fields.get("toRepo"))
    with call.write() as connection:
        repository = call.find(connection, source, role=Role.ADMIN)
        _need_namespace(connection, call, target.namespace)
        repositories.move(connection, repository, to=target)
        references.note(
            connection,
            repository,
            action="move repository",
            old=str(repository.id),
            new=str(target),
            actor=call.actor,
        )
    return JSONResponse({"url": call.url(f"/{target}")})


def settings(call: Call) -> Response:
    """Private or public; gated or open."""
    fields = call.fields()
    gated = fields.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise BadRequest("gated is false, 'auto' or 'manual'")
    private = _private(call)
    if private is None and gated is None:
        raise BadRequest("there is no setting that this registry knows: visibility, gated")
    with call.write() as connection:
        repository = call.repository(connection, role=Role.ADMIN)
        repositories.change_settings(
            connection,
            repository,
            private=private,
            gated=None if gated is None else str(gated or ""),
        )
        new = f"private={private} gated={gated}"
        references.note(connection, repository, action="change settings", new=new, actor=call.actor)
    return JSONResponse({"private": private, "gated": gated})


def info(call: Call) -> Response:
    """A repository at a revision, with the names of its files."""
    blobs, wanted = render.flag(call.query.get("blobs")), call.query.getlist("expand")
    with call.read() as connection:
        repository = call.repository(connection)
        commit = call.commit(connection, repository)

        def make() -> Response:
            tree = call.tree(connection, repository, commit=commit)
            full = render.model(repository, sha=commit)
            full["cardData"] = dict(repository.card) or None
            full["siblings"] = render.siblings(tree, blobs=blobs)
            full["usedStorage"] = _storage(tree)
            full["spaces"] = []
            return render.answer(expanded(full, wanted))

        return call.again((repository.number, "info", commit, blobs, *wanted), make)


def auth_check(call: Call) -> Response:
    """Whether the caller may read, or write, this repository."""
    role = Role.WRITE if call.params.get("path") == "write" else Role.READ
    with call.read() as connection:
        repository = call.repository(connection, role=role)
        call.need_files(repository)
    return JSONResponse({})


def duplicate(call: Call) -> Response:
    """A new repository with all commits, branches and tags of another."""
    call.need_user()
    id = parse_repo(call.fields().get("repository"))
    private = _private(call)
    with call.write() as connection:
        source = call.repository(connection)
        call.need_files(source)
        _need_namespace(connection, call, id.namespace)
        keep = source.private if private is None else private
        try:
            target = repositories.create(connection, id, private=keep)
        except Conflict as error:
            raise _taken(call, id, error) from error
        _copy_rows(connection, source, target)
        references.note(
            connection,
            target,
            action="duplicate repository",
            old=str(source.id),
            new=str(id),
            actor=call.actor,
        )
    return JSONResponse({"url": call.url(f"/{id}"), "filesCopyPending": False})


def lend(call: Call) -> Response:
    """Let another repository hold large files of this one, so that a commit can copy them."""
    fields = call.fields()
    target, files = fields.get("target"), fields.get("files")
    if not isinstance(target, dict) or not isinstance(files, list) or len(files) > _FILES:
        raise BadRequest(f"there must be a target, and a list of at most {_FILES} files")
    if target.get("type") not in (None, "model"):
        raise BadRequest("This registry keeps models only, no datasets and no Spaces")
    wanted = [parse_digest(f.get("sha256") if isinstance(f, dict) else None) for f in files]
    failed = []
    with call.write() as connection:
        source = call.repository(connection)
        call.need_files(source)
        receiver = call.find(connection, parse_repo(target.get("name")), role=Role.WRITE)
        for sha256 in wanted:
            if blobs.is_held(connection, source.number, sha256=sha256):
                blobs.hold(connection, receiver.number, sha256=sha256)
            else:
                failed.append({"sha256": sha256, "error": f"{source.id} has no such file"})
    return JSONResponse({"failed": failed})


def expanded(full: dict[str, object], names: list[str]) -> dict[str, object]:
    """Only what ``expand`` asks for, where it asks for anything."""
    if not names:
        return full
    return {k: v for k, v in full.items() if k in ("_id", "id", "modelId", *names)}


def _copy_rows(connection: Connection, source: Repository, target: Repository) -> None:
    for table in (
        schema.commits,
        schema.references,
        schema.holdings,
        schema.repository_tags,
    ):
        columns = [column for column in table.c if column.name != "repository"]
        rows = sa.select(sa.literal(target.number), *columns).where(
            table.c.repository == source.number
        )
        names = ["repository", *(column.name for column in columns)]
        connection.execute(sa.insert(table).from_select(names, rows))
    card = sa.update(schema.repositories).where(schema.repositories.c.id == target.number)
    connection.execute(
        card.values(
            card=sa.select(schema.repositories.c.card)
            .where(schema.repositories.c.id == source.number)
            .scalar_subquery()
        )
    )


def _named(call: Call) -> RepoId:
    """The id in a body that has ``name`` and perhaps ``organization``."""
    _models_only(call)
    fields = call.fields()
    name, organization = fields.get("name"), fields.get("organization")
    if organization is None and isinstance(name, str) and "/" in name:
        return parse_repo(name)
    namespace = parse_namespace(organization or call.principal.user)
    return RepoId(namespace=namespace, name=parse_name(name, what="the name of a repository"))


def _models_only(call: Call) -> None:
    if call.fields().get("type") not in (None, "model"):
        raise BadRequest("This registry keeps models only, no datasets and no Spaces")


def _private(call: Call) -> bool | None:
    fields = call.fields()
    private, visibility = fields.get("private"), fields.get("visibility")
    if visibility not in (None, "public", "private") or not isinstance(private, bool | None):
        raise BadRequest("visibility is 'public' or 'private'")
    return private if visibility is None else visibility == "private"


def _need_namespace(connection: Connection, call: Call, namespace: str) -> None:
    if namespace and accounts.namespace_kind(connection, namespace) is None:
        raise Forbidden(f"Your token has no write access to {namespace}")
    call.need_role(namespace, role=Role.WRITE)


def _taken(call: Call, id: RepoId, error: Conflict) -> Conflict:
    return Conflict(error.message, url=call.url(f"/{id}"))


def _storage(tree: Tree) -> int:
    return sum({entry.sha256: entry.size for entry in tree.values()}.values())


RULES = [
    Rule(method="POST", pattern="/api/repos/create", handler=create, body="json"),
    Rule(method="DELETE", pattern="/api/repos/delete", handler=delete, body="json"),
    Rule(method="POST", pattern="/api/repos/move", handler=move, body="json"),
    Rule(method="PUT", pattern="/api/models/{repo}/settings", handler=settings, body="json"),
    Rule(method="POST", pattern="/api/models/{repo}/duplicate", handler=duplicate, body="json"),
    Rule(
        method="POST",
        pattern="/api/models/{repo}/lfs-files/duplicate",
        handler=lend,
        body="json",
    ),
    Rule(method="GET", pattern="/api/models/{repo}/auth-check/{path}", handler=auth_check),
    Rule(method="GET", pattern="/api/models/{repo}/revision/{revision}", handler=info, kept=True),
    Rule(method="GET", pattern="/api/models/{repo}", handler=info, kept=True),
]
