"""import-folder: take over what was published to a client's folder registry.

What is read, and nothing else of it::

    FOLDER/
    ├── hubstate-registry.json              {"schema": 1}
    ├── blobs/sha256/ab/<64 hex>            content
    └── repos/org/name/                     a repository without an organisation is _/name
        ├── commits/<40 hex>.json           a commit; the name begins the SHA-256 of its bytes
        ├── branches/<quoted name>/00000007 moves; the highest number is where it is now
        └── tags/<quoted name>/00000001     the same for a tag

Commits keep their ids, so a reference pinned to the folder's commit resolves here as well. Each
repository is taken over in one transaction; a branch that has moved on here is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hubstate_registry.advice import is_large
from hubstate_registry.cards import InvalidCard, parse_card, tags_of
from hubstate_registry.errors import BadRequest
from hubstate_registry.names import parse_branch, parse_commit, parse_digest, parse_path, parse_repo
from hubstate_registry.settings import Limits
from hubstate_registry.storage import Storage, accounts, blobs, commits, references, repositories
from hubstate_registry.storage.blobs import Landed
from hubstate_registry.storage.commits import Commit
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.references import Actor, Reference
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Entry, Tree, large_entry, small_entry

__all__ = ["Report", "check_folder", "import_folder"]

_ACTOR = Actor(user="import-folder")
_MOVE = re.compile(r"\d{8}\Z")
_QUOTED = re.compile(r"%([0-9a-f]{2})")


@dataclass(slots=True, kw_only=True)
class Report:
    """A line for each repository, and for each thing left alone."""

    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A commit as the folder has it."""

    commit: Commit
    files: Mapping[str, tuple[str, int]]
    """Path to SHA-256 and size."""


def check_folder(folder: Path) -> None:
    """Refuse what is no folder registry.

    Raises:
        BadRequest: it is none, or of another schema.
    """
    if _json(folder / "hubstate-registry.json").get("schema") != 1:
        raise BadRequest(f"{folder} is no folder registry of schema 1")


def import_folder(storage: Storage, folder: Path, *, private: bool = False) -> Report:
    """Take over every repository of a folder registry.

    Raises:
        BadRequest: it is none, or something in it is damaged; what came before it stays.
        ContentMismatch: a blob does not hash to its name.
        Full: the disk is full.
    """
    check_folder(folder)
    report = Report()
    for place in sorted((folder / "repos").glob("*/*")):
        _import(storage, folder, place, private=private, report=report)
    return report


def _import(storage: Storage, folder: Path, place: Path, *, private: bool, report: Report) -> None:
    namespace = "" if place.parent.name == "_" else place.parent.name
    id = parse_repo(f"{namespace}/{place.name}" if namespace else place.name)
    heads = [*_heads(place, "branches"), *_heads(place, "tags")]
    if not heads:
        return
    records = _records(place, {head.commit for head in heads})
    with ExitStack() as stack:
        landed = _copy(storage, folder, records, stack)
        with storage.database.write() as connection:
            repository = repositories.find(connection, id, moved=False)
            if repository is None:
                _need_namespace(connection, namespace)
                repository = repositories.create(connection, id, private=private)
            for item in landed:
                storage.files.place(item)
                blobs.record(connection, item.sha256, size=item.size)
            count = _add(connection, storage, repository, records)
            report.lines.append(f"{id}: {count} new commits")
            for head in heads:
                if line := _move(connection, repository, head, records):
                    report.lines.append(f"{id}: {line}")
            _finish(connection, storage, repository)


def _heads(place: Path, kind: str) -> Iterator[Reference]:
    for folder in sorted((place / kind).glob("*")):
        moves = sorted(path for path in folder.iterdir() if _MOVE.match(path.name))
        commit = _json(moves[-1]).get("commit") if moves else None
        if commit is not None:
            name = _QUOTED.sub(lambda match: chr(int(match[1], 16)), folder.name)
            singular = "branch" if kind == "branches" else "tag"
            yield Reference(
                kind=singular, name=parse_branch(name, what=singular), commit=parse_commit(commit)
            )


def _records(place: Path, wanted: set[str]) -> list[Record]:
    """The commits that the references lead to, parents first."""
    found: dict[str, Record] = {}
    for head in sorted(wanted):
        chain: list[Record] = []
        id: str | None = head
        while id is not None and id not in found:
            record = _record(place / "commits" / f"{id}.json", id)
            chain.append(record)
            id = record.commit.parent
        found.update((record.commit.id, record) for record in reversed(chain))
    return list(found.values())


def _record(path: Path, id: str) -> Record:
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest()[:40] != id:
        raise BadRequest(f"{path}: expected commit {id}; it is missing or damaged")
    try:
        fields = json.loads(data)
        files = {
            parse_path(name): (parse_digest(info["sha256"]), int(info["size"]))
            for name, info in fields["files"].items()
        }
        title, _, message = str(fields["message"]).partition("\n")
        commit = Commit(
            id=id,
            parent=None if fields["parent"] is None else parse_commit(fields["parent"]),
            author=str(fields["author"]),
            title=title,
            message=message.strip(),
            created=datetime.fromisoformat(fields["date"]).timestamp(),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise BadRequest(f"{path}: expected a commit, found {found}") from error
    return Record(commit=commit, files=files)


def _copy(storage: Storage, folder: Path, records: list[Record], stack: ExitStack) -> list[Landed]:
    """The blobs that are not here yet, hashed while they are copied."""
    wanted = dict(item for record in records for item in record.files.values())
    landed = []
    for sha256, size in wanted.items():
        place = storage.files.path(sha256)
        if place.exists() and place.stat().st_size == size:
            landed.append(Landed(path=place, sha256=sha256, size=size))
            continue
        incoming = stack.enter_context(storage.files.incoming())
        with (folder / "blobs" / "sha256" / sha256[:2] / sha256).open("rb") as file:
            while block := file.read(1 << 20):
                incoming.write(block)
        landed.append(incoming.land(sha256=sha256, size=size))
    return landed


def _add(
    connection: Connection, storage: Storage, repository: Repository, records: list[Record]
) -> int:
    known = {c.id for c in commits.read(connection, repository, ids=[r.commit.id for r in records])}
    trees: dict[str | None, Tree] = {None: Tree()}
    for record in records:
        if record.commit.id in known:
            continue
        parent = record.commit.parent
        if parent not in trees:
            assert parent is not None
            trees[parent] = commits.load_tree(connection, repository, commit=parent)
        entries = [_entry(storage, path, *info) for path, info in record.files.items()]
        tree = Tree(_since(entry, trees[parent]) for entry in entries).stamped(record.commit.id)
        trees[record.commit.id] = tree
        for sha256, _ in record.files.values():
            blobs.hold(connection, repository.number, sha256=sha256)
        commits.insert(connection, repository, commit=record.commit, tree=tree)
    return len(records) - len(known)


def _entry(storage: Storage, path: str, sha256: str, size: int) -> Entry:
    if is_large(path, size, limits=Limits()):
        return large_entry(path, sha256=sha256, size=size)
    return small_entry(path, storage.files.path(sha256).read_bytes())


def _since(entry: Entry, parent: Tree) -> Entry:
    before = parent.get(entry.path)
    same = before is not None and before.oid == entry.oid
    return entry._replace(changed=before.changed) if before is not None and same else entry


def _move(
    connection: Connection, repository: Repository, head: Reference, records: list[Record]
) -> str:
    """Make or move one reference; a line about it if it was left alone."""
    old = references.head(connection, repository, kind=head.kind, name=head.name)
    if old is None:
        references.create(connection, repository, reference=head, actor=_ACTOR)
        return ""
    if old == head.commit:
        return ""
    parents = {record.commit.id: record.commit.parent for record in records}
    id: str | None = head.commit
    while id is not None and id != old:
        id = parents.get(id)
    if head.kind == "tag" or id is None:
        return f"{head.kind} {head.name} is at {old} here, at {head.commit} there: left alone"
    references.swap(connection, repository, name=head.name, old=old, new=head.commit, actor=_ACTOR)
    return ""


def _finish(connection: Connection, storage: Storage, repository: Repository) -> None:
    """A ``main``, which everything relies on, and what its README says."""
    main = references.head(connection, repository, kind="branch", name="main")
    if main is None:
        commits.start(connection, repository, actor=_ACTOR)
        return
    (commit,) = commits.read(connection, repository, ids=[main])
    repositories.touch(connection, repository, at=commit.created)
    readme = commits.load_tree(connection, repository, commit=main).get("README.md")
    if readme is None or readme.large:
        return
    try:
        card = parse_card(storage.files.path(readme.sha256).read_text("utf-8", "replace"))
    except InvalidCard:
        card = {}
    repositories.set_card(connection, repository, card=card, tags=tags_of(card))


def _need_namespace(connection: Connection, name: str) -> None:
    if name and accounts.namespace_kind(connection, name) is None:
        accounts.add_namespace(connection, name, kind="organisation")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"{path}: expected JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise BadRequest(f"{path}: expected a JSON object")
    return loaded
