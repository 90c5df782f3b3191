"""The files of a revision: as a tree, and for named paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl

from starlette.responses import Response

from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest, EntryNotFound
from hubstate_registry.routes import render
from hubstate_registry.storage import commits
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Entry, Tree

__all__ = ["RULES"]

_PAGE, _EXPANDED = 1000, 50
_PATHS, _FORM_FIELDS = 2000, 10_000


def list_tree(call: Call) -> Response:
    """A folder, or everything below it; in pages, ordered by path."""
    query = call.query
    expand, recursive = render.flag(query.get("expand")), render.flag(query.get("recursive"))
    folder, mark = call.params["path"].strip("/"), query.get("cursor")
    with call.read() as connection:
        repository = call.repository(connection)
        commit = call.commit(connection, repository)

        def make() -> Response:
            tree = call.tree(connection, repository, commit=commit)
            if folder not in tree.folders:
                missing = f"{folder} does not exist on {call.params['revision']}"
                raise EntryNotFound(missing, commit=commit)
            paths = _below(tree, folder) if recursive else tree.listings[folder]
            size = _EXPANDED if expand else _PAGE
            after = render.read_cursor(mark) if mark else ""
            page = [path for path in paths if path > after] if after else list(paths)
            rows = _rows(call, connection, repository, tree=tree, paths=page[:size], expand=expand)
            next_page = page[size - 1] if len(page) > size else None
            return render.page(call, rows, after=next_page, headers={"X-Repo-Commit": commit})

        key = (repository.number, "tree", commit, folder, recursive, expand, mark)
        return call.again(key, make)


def paths_info(call: Call) -> Response:
    """The rows of named files and folders; those that are not there are left out."""
    with call.read() as connection:
        repository = call.repository(connection)
        commit = call.commit(connection, repository)

        def make() -> Response:
            paths, expand = _wanted(call.data)
            tree = call.tree(connection, repository, commit=commit)
            known = [path for path in paths if path in tree or path in tree.folders]
            rows = _rows(call, connection, repository, tree=tree, paths=known, expand=expand)
            return render.answer(rows, headers={"X-Repo-Commit": commit})

        return call.again((repository.number, "paths", commit, call.data), make)


def _wanted(form: bytes) -> tuple[list[str], bool]:
    """The paths of a form, and whether their commits are asked for."""
    try:
        pairs = parse_qsl(form.decode(), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:
        raise BadRequest("the body is no form, or has too many fields") from error
    paths = [value.strip("/") for name, value in pairs if name in ("paths", "paths[]")]
    if len(paths) > _PATHS:
        raise BadRequest(f"at most {_PATHS} paths at once")
    expand = any(name == "expand" and render.flag(value) for name, value in pairs)
    return list(dict.fromkeys(paths)), expand


def _below(tree: Tree, folder: str) -> Sequence[str]:
    prefix = f"{folder}/" if folder else ""
    return sorted(p for p in (*tree, *tree.folders) if p and p.startswith(prefix))


def _rows(
    call: Call,
    connection: Connection,
    repository: Repository,
    *,
    tree: Tree,
    paths: Sequence[str],
    expand: bool,
) -> list[dict[str, object]]:
    files = [tree[path] for path in paths if path in tree]
    xet = _xet_hashes(call, connection, files)
    rows = [
        render.file_row(tree[path], xet=xet.get(tree[path].sha256))
        if path in tree
        else {"type": "directory", "oid": tree.folders[path], "size": 0, "path": path}
        for path in paths
    ]
    if expand:
        _add_commits(connection, repository, tree=tree, rows=rows)
    return rows


def _xet_hashes(call: Call, connection: Connection, files: Iterable[Entry]) -> Mapping[str, str]:
    """Only where Xet is spoken: a client that sees a hash goes to ask for a token."""
    if "xet" not in call.registry.extensions:
        return {}
    found = call.blobs(connection, (entry.sha256 for entry in files if entry.large))
    return {digest: blob.xet for digest, blob in found.items() if blob.xet}


def _add_commits(
    connection: Connection,
    repository: Repository,
    *,
    tree: Tree,
    rows: list[dict[str, object]],
) -> None:
    """The commit that last changed each file, or anything in each folder."""
    touched = {path: {e.changed for e in _entries(tree, path)} for path in map(_path, rows)}
    ids = {id for group in touched.values() for id in group}
    found = {c.id: c for c in commits.read(connection, repository, ids=ids)}
    for row in rows:
        mine = [found[id] for id in touched[_path(row)] if id in found]
        if mine:
            row["lastCommit"] = render.last_commit(max(mine, key=lambda commit: commit.created))


def _entries(tree: Tree, path: str) -> Iterable[Entry]:
    return [tree[path]] if path in tree else tree.under(path)


def _path(row: Mapping[str, object]) -> str:
    return str(row["path"])


RULES = [
    Rule(
        method="GET",
        pattern="/api/models/{repo}/tree/{revision}/{path}",
        handler=list_tree,
        kept=True,
    ),
    Rule(
        method="POST",
        pattern="/api/models/{repo}/paths-info/{revision}",
        handler=paths_info,
        body="bytes",
        kept=True,
    ),
]
