"""What is in a bundle. It follows from the lock file alone, down to the byte.

::

    hubstate.lock                       first: what all the rest is held to
    hubstate-registry.json              from here on a folder registry, see
    repos/org/name/commits/<40 hex>.json     hubstate.endpoints.shelf
    repos/org/name/branches/main/00000001    each reference that is not a pin by itself
    repos/org/name/tags/locked-<40 hex>/…    the commit's id where the release comes from
    repos/org/name/refs.json
    blobs/sha256/ab/<64 hex>            last: the content, in the order of the digests

Unpacked by any means, it is a registry.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.endpoints.moves import push_move
from hubstate.endpoints.shelf import Kind, Shelf
from hubstate.errors import Damaged, Unreachable
from hubstate.lock import NAME, LockFile, Pin, dump_lock

__all__ = ["AUTHOR", "DATE", "blobs_of", "check_room", "commit_of", "describe", "is_mutable"]

AUTHOR = "hubstate bundle"
DATE = datetime.fromtimestamp(0, UTC)


def describe(lock: LockFile) -> dict[str, bytes]:
    """Every file of a bundle but the blobs, in the order that they have in it.

    Raises:
        Damaged: the lock file says two things of one commit.
        Conflict: it has repositories whose names differ in case only.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "registry")
        shelf = Shelf(root)
        shelf.create()
        for pin in lock.releases.values():
            _shelve(shelf, pin)
        for repo in {pin.reference.repo for pin in lock.releases.values()}:
            shelf.write_refs(repo)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    return {NAME: dump_lock(lock), **found}


def _shelve(shelf: Shelf, pin: Pin) -> None:
    repo = pin.reference.repo
    shelf.claim(repo)
    id = shelf.add_commit(commit_of(pin))
    names: list[tuple[Kind, str]] = [("tags", pin.tag)]
    if is_mutable(pin):
        names.append(("branches", pin.reference.revision))
    for kind, name in names:
        push_move(
            shelf.moves(repo, kind, name),
            after=None,
            commit=id,
            author=AUTHOR,
            date=DATE,
            temporaries=shelf.blobs.temporaries,
        )
        move = shelf.last(repo, kind, name)
        if move and move.commit != id:
            raise Damaged(f"the lock file says two things of commit {pin.commit} of {repo}")


def is_mutable(pin: Pin) -> bool:
    """Whether a pin's reference is a branch or a tag, and not a pin by itself."""
    return not pin.reference.pinned


def commit_of(pin: Pin) -> Commit:
    """The commit as a bundle has it, without its id: nothing in it but what the pin says."""
    return Commit(
        repo=pin.reference.repo,
        id="",
        parent=None,
        message=f"Commit {pin.commit}",
        author=AUTHOR,
        date=DATE,
        files=dict(sorted(pin.files.items())),
    )


def blobs_of(lock: LockFile) -> Mapping[Digest, int]:
    """The content of a bundle: the size of each blob, in order.

    Raises:
        Damaged: the lock file gives one digest two sizes.
    """
    sizes: dict[Digest, int] = {}
    for pin in lock.releases.values():
        for path, info in pin.files.items():
            assert info.digest is not None and info.size is not None, "a pin knows both"
            if sizes.setdefault(info.digest, info.size) != info.size:
                raise Damaged(f"{pin.reference}: {path}: {info.digest} has two sizes")
    return {digest: sizes[digest] for digest in sorted(sizes, key=lambda digest: digest.hex)}


def check_room(place: Path, size: int, *, what: str) -> None:
    """Refuse what does not fit on a disk, before the first byte of it is written.

    Raises:
        Unreachable: there is less room than so many bytes.
        OSError: the disk cannot be asked.
    """
    folder = place
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    room = shutil.disk_usage(folder).free
    if room < size:
        raise Unreachable(f"{what} needs {size} bytes, and {place} has {room} left")
