"""A bundle into a folder registry: all of it verified before any of it can be seen."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

from hubstate.blobs import FileInfo, Stream, reachable
from hubstate.bundle.layout import (
    AUTHOR,
    DATE,
    blobs_of,
    check_room,
    commit_of,
    describe,
    is_mutable,
)
from hubstate.bundle.tar import Member, read_tar
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.endpoints.moves import push_move
from hubstate.endpoints.records import dump_commit
from hubstate.endpoints.shelf import Shelf, commit_id
from hubstate.endpoints.writing import set_tag
from hubstate.errors import Conflict, Damaged
from hubstate.lock import NAME, LockFile, Pin, parse_lock
from hubstate.progress import Hook, bar
from hubstate.values import frozen

__all__ = ["Imported", "import_bundle"]

_LARGEST = 256 << 20  # bytes of everything that is no blob, and is held in memory
_BLOBS = "blobs/"


@frozen
class Imported:
    """What a bundle has brought."""

    lock: LockFile
    registry: Path
    size: int
    """Bytes of the content, verified."""


def import_bundle(path: Path, registry: Path, *, progress: Hook | None = None) -> Imported:
    """Add what is in a bundle to a folder registry, which is made one if it is new or empty.

    A branch then names what the last import brought. Running it again changes nothing.

    Raises:
        Damaged: the bundle is not exactly what its lock file says; nothing of it can be seen.
        Conflict: a branch or tag names something that was published here.
        InvalidSetting: the folder holds something that is no registry.
        Unreachable: a file cannot be read or written, or there is no room.
    """
    with reachable(f"{path} cannot be imported into {registry}"), path.open("rb") as file:
        try:
            members = read_tar(file)
            lock, first = _read_description(members)
            shelf = Shelf(Path(os.path.abspath(registry)))  # noqa: PTH100
            check_room(registry, _needed(shelf, lock), what=str(path))
            _check_free(shelf, lock)
            shelf.create()
            total = sum(blobs_of(lock).values())
            shown = bar(path.name, total=total) if progress is None else nullcontext(progress)
            with shown as hook:
                _add_blobs(shelf, lock, itertools.chain(first, members), hook)
        except Damaged as error:
            raise type(error)(f"the bundle {path}: {error}") from error
        for pin in lock.releases.values():
            _publish(shelf, pin)
    return Imported(lock=lock, registry=shelf.root, size=total)


def _read_description(members: Iterator[Member]) -> tuple[LockFile, list[Member]]:
    """The lock file, once all that comes before the blobs is as it says; and the first blob."""
    found: dict[str, bytes] = {}
    first: list[Member] = []
    room = _LARGEST
    for member in members:
        if member.name.startswith(_BLOBS):
            first = [member]
            break
        room -= member.size + 512
        if room < 0:
            raise Damaged(f"more than {_LARGEST} bytes before the first blob")
        found[member.name] = _read(member.stream, member.size)
    if NAME not in found:
        raise Damaged(f"it has no {NAME}")
    lock = parse_lock(found[NAME], where=NAME)
    _compare(describe(lock), found)
    return lock, first


def _compare(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> None:
    for name in sorted({*expected, *found}):
        if name not in expected:
            raise Damaged(f"{name}: the lock file says nothing of it")
        if name not in found:
            raise Damaged(f"{name} is missing")
        if expected[name] != found[name]:
            raise Damaged(f"{name} is not what follows from the lock file")


def _read(stream: Stream, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view and (count := stream.readinto(view) or 0):
        view = view[count:]
    return bytes(buffer)


def _needed(shelf: Shelf, lock: LockFile) -> int:
    """The most bytes that an import takes: what is there is written once more, one at a time."""
    sizes = blobs_of(lock)
    there = [size for digest, size in sizes.items() if shelf.blobs.path(digest).exists()]
    return sum(sizes.values()) - sum(there) + max(there, default=0)


def _add_blobs(shelf: Shelf, lock: LockFile, members: Iterable[Member], hook: Hook) -> None:
    missing = {_name(digest): (digest, size) for digest, size in blobs_of(lock).items()}
    for member in members:
        if member.name not in missing:
            raise Damaged(f"{member.name}: the lock file says nothing of it")
        digest, size = missing.pop(member.name)
        if member.size != size:
            raise Damaged(f"{member.name}: expected {size} bytes, found {member.size}")
        info = FileInfo(size=size, digest=digest)
        shelf.blobs.add(member.stream, info=info, what=member.name, replace=False, progress=hook)
    if missing:
        raise Damaged(f"{min(missing)} is missing")


def _name(digest: Digest) -> str:
    return f"{_BLOBS}sha256/{digest.hex[:2]}/{digest.hex}"


# From here on others can see it


def _check_free(shelf: Shelf, lock: LockFile) -> None:
    """Refuse to move what somebody published here."""
    for pin in lock.releases.values():
        repo, revision = pin.reference.repo, pin.reference.revision
        shelf.claim(repo)
        if not is_mutable(pin):
            continue
        refs = shelf.refs(repo)
        imported = {id for tag, id in refs.tags.items() if tag.startswith("locked-")}
        now = refs.branches.get(revision) or refs.tags.get(revision)
        wanted = commit_id(dump_commit(commit_of(pin)))
        if now and now != wanted and (now not in imported or revision in refs.tags):
            raise Conflict(
                f"{pin.reference}: {shelf.root} has {now} under that name, which no bundle has "
                "brought: import into a folder of its own"
            )


def _publish(shelf: Shelf, pin: Pin) -> None:
    repo, revision = pin.reference.repo, pin.reference.revision
    commit: Commit = shelf.commit(repo, shelf.add_commit(commit_of(pin)))
    set_tag(shelf, commit, pin.tag, author=AUTHOR)
    before = shelf.last(repo, "branches", revision)
    tagged = shelf.last(repo, "tags", revision)
    if not is_mutable(pin) or tagged or (before and before.commit == commit.id):
        return
    moved = push_move(
        shelf.moves(repo, "branches", revision),
        after=before,
        commit=commit.id,
        author=AUTHOR,
        date=DATE,
        temporaries=shelf.blobs.temporaries,
    )
    now = None if moved else shelf.last(repo, "branches", revision)
    if now and now.commit != commit.id:  # it may be somebody who imports the same
        raise Conflict(f"{pin.reference}: somebody else has moved it just now: import again")
    shelf.write_refs(repo)
