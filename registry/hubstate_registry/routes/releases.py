"""Many references in one question: what each means, and the small files of it.

::

    POST /api/hubstate/releases
        {"releases": [{"repo": "org/name", "revision": "main"}, …], "inline": 1048576}

    a line of JSON for each, in their order:
        {"info": <GET M/revision/R?blobs=true>, "files": {"hubstate.json": "<its text>", …}}
        {"status": 404, "code": "RepoNotFound"}        what asking for it alone would come to

Each is asked for by the code that answers it alone, and counts as a request: who may not know of
a repository learns no more here than there. Files are read when their line is due, so that no
answer is in memory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from hubstate_registry.addresses import Moved, Place
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest, Gated, RegistryError, TooLarge
from hubstate_registry.names import encodes
from hubstate_registry.routes import repos
from hubstate_registry.storage import Storage
from hubstate_registry.storage.trees import Entry

__all__ = ["RULES"]

_MOST = 100  # references
_FILE, _FILES = 1 << 20, 16 << 20  # bytes of one file, and of all in one answer
_BLOCK = 256 << 10  # bytes that are sent at a time


class _Found(NamedTuple):
    """What is answered for one reference, and the files that may go with it."""

    answer: bytes
    files: Sequence[Entry] | None = None
    """None where the answer is a refusal."""


def releases(call: Call) -> Response:
    """What references mean, with their small files."""
    wanted, inline = _wanted(call.fields())
    call.charge(len(wanted) - 1)  # one was counted when it came
    found = [_find(_alone(call, words), inline=inline) for words in wanted]
    lines = _lines(call.storage, found)
    return StreamingResponse(_joined(lines), media_type="application/x-ndjson")


def _wanted(fields: Mapping[str, object]) -> tuple[Sequence[Mapping[str, str]], int]:
    rows, inline = fields.get("releases"), fields.get("inline", 0)
    if not isinstance(rows, list):
        raise BadRequest("releases must be a list")
    if len(rows) > _MOST:
        raise TooLarge(f"at most {_MOST} releases at once, found {len(rows)}")
    if type(inline) is not int or inline < 0:
        raise BadRequest("inline must be a number of bytes")
    return [_words(row) for row in rows], min(inline, _FILE)


def _words(row: object) -> Mapping[str, str]:
    words = {"repo": row.get("repo"), "revision": row.get("revision")} if type(row) is dict else {}
    texts = {name: text for name, text in words.items() if isinstance(text, str) and encodes(text)}
    if len(texts) != 2:
        raise BadRequest("each of the releases must have a repo and a revision")
    return texts


def _alone(call: Call, words: Mapping[str, str]) -> Call:
    """The call that asks for one of them and for no other."""
    place = Place(call.place.rule, {name: quote(text) for name, text in words.items()})
    scope = {**call.scope, "query_string": b"blobs=true"}
    alone = Call(call.registry, place, scope=scope, receive=call.receive)
    alone.principal, alone.memory, alone.facts = call.principal, call.memory, call.facts
    return alone


def _find(call: Call, *, inline: int) -> _Found:
    try:
        return _Found(bytes(repos.info(call).body), _small_files(call, inline=inline))
    except Moved:
        refused: dict[str, object] = {"status": 307}
    except RegistryError as error:
        refused = {"status": error.status, **({"code": error.code} if error.code else {})}
    return _Found(json.dumps(refused).encode())


def _small_files(call: Call, *, inline: int) -> Sequence[Entry]:
    """Those of at most ``inline`` bytes, if the caller may read any."""
    with call.read() as connection:
        repository = call.repository(connection)
        try:
            call.need_files(repository)
        except Gated:
            return ()
        commit = call.commit(connection, repository)
        tree = call.tree(connection, repository, commit=commit)
        return [entry for entry in tree.values() if not entry.large and entry.size <= inline]


def _lines(storage: Storage, found: Sequence[_Found]) -> Iterator[bytes]:
    left = _FILES
    for answer, files in found:
        if files is None:
            yield answer + b"\n"
            continue
        texts = {}
        for entry in files:
            if entry.size <= left and (text := _text(storage, entry)) is not None:
                texts[entry.path] = text
                left -= entry.size
        said = json.dumps(texts, ensure_ascii=False).encode()
        yield b'{"info":%s,"files":%s}\n' % (answer, said)


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines put together, since each block takes a thread's turn and a write."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _text(storage: Storage, entry: Entry) -> str | None:
    """The content of a file that is text, and still there."""
    try:
        return storage.files.path(entry.sha256).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None


RULES = [
    Rule(method="POST", pattern="/api/hubstate/releases", handler=releases, body="json", kept=True)
]
