"""Branches, tags and history."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from hubstate_registry.auth import Role
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest, Forbidden
from hubstate_registry.names import parse_branch, parse_commit, parse_text
from hubstate_registry.routes import render
from hubstate_registry.storage import commits, references
from hubstate_registry.storage.references import Reference

__all__ = ["RULES"]

_PAGE = 50


def list_refs(call: Call) -> Response:
    """All branches and tags."""
    requests = render.flag(call.query.get("include_prs"))
    with call.read() as connection:
        repository = call.repository(connection)

        def make() -> Response:
            found = references.list_references(connection, repository)
            answer: dict[str, object] = {
                "branches": [_row(ref) for ref in found if ref.kind == "branch"],
                "tags": [_row(ref) for ref in found if ref.kind == "tag"],
                "converts": [],
            }
            return render.answer({**answer, "pullRequests": []} if requests else answer)

        return call.again((repository.number, "refs", requests), make)


def create_branch(call: Call) -> Response:
    """A branch at a revision, ``main`` unless told."""
    name = parse_branch(call.params["branch"])
    start = parse_text(call.fields().get("startingPoint") or "main", what="startingPoint")
    _create(call, kind="branch", name=name, revision=start)
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """A tag at a revision."""
    name = parse_branch(call.fields().get("tag"), what="a tag")
    message = parse_text(call.fields().get("message") or "", what="message")
    _create(call, kind="tag", name=name, revision=None, message=message)
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    """Remove a branch; ``main`` stays."""
    if call.params["branch"] == "main":
        raise Forbidden("The branch main cannot be deleted")
    return _delete(call, kind="branch", name=call.params["branch"])


def delete_tag(call: Call) -> Response:
    """Remove a tag."""
    return _delete(call, kind="tag", name=call.params["revision"])


def list_commits(call: Call) -> Response:
    """History, newest first."""
    mark = call.query.get("cursor")
    with call.read() as connection:
        repository = call.repository(connection)
        first = parse_commit(render.read_cursor(mark)) if mark else None
        first = first or call.commit(connection, repository)

        def make() -> Response:
            found = commits.history(connection, repository, commit=first, limit=_PAGE + 1)
            rows = [render.commit_row(commit) for commit in found[:_PAGE]]
            return render.page(call, rows, after=found[_PAGE].id if len(found) > _PAGE else None)

        return call.again((repository.number, "commits", first), make)


def _create(call: Call, *, kind: str, name: str, revision: str | None, message: str = "") -> None:
    with call.write() as connection:
        repository = call.repository(connection, role=Role.WRITE)
        if revision is None:
            commit = call.commit(connection, repository)
        else:
            commit = references.resolve(connection, repository, revision=revision)
        reference = Reference(kind=kind, name=name, commit=commit)
        references.create(
            connection, repository, reference=reference, actor=call.actor, message=message
        )


def _delete(call: Call, *, kind: str, name: str) -> Response:
    if "\0" in name:
        raise BadRequest("that is no name of a reference")
    with call.write() as connection:
        repository = call.repository(connection, role=Role.WRITE)
        references.delete(connection, repository, kind=kind, name=name, actor=call.actor)
    return JSONResponse({})


def _row(ref: Reference) -> dict[str, str]:
    return {"name": ref.name, "ref": ref.full, "targetCommit": ref.commit}


RULES = [
    Rule(method="GET", pattern="/api/models/{repo}/refs", handler=list_refs, kept=True),
    Rule(
        method="POST",
        pattern="/api/models/{repo}/branch/{branch}",
        handler=create_branch,
        body="json",
    ),
    Rule(method="DELETE", pattern="/api/models/{repo}/branch/{branch}", handler=delete_branch),
    Rule(
        method="POST", pattern="/api/models/{repo}/tag/{revision}", handler=create_tag, body="json"
    ),
    Rule(method="DELETE", pattern="/api/models/{repo}/tag/{revision}", handler=delete_tag),
    Rule(
        method="GET",
        pattern="/api/models/{repo}/commits/{revision}",
        handler=list_commits,
        kept=True,
    ),
]
