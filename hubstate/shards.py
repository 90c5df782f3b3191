"""Weights in several files: how a state is split, and the index of which tensor is where.

::

    model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors
    model.safetensors.index.json       {"metadata": {"total_size": bytes of all tensors},
                                        "weight_map": {tensor: file, …}}

It is the form that huggingface_hub and transformers write and read. In a release with a manifest
the index is for them alone. In a repository without one it is what says which files are meant, and
nothing that it says is believed before the headers of all of them say the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from hubstate.errors import InvalidSetting, InvalidWeights
from hubstate.header import read_header
from hubstate.strictjson import loads

__all__ = [
    "INDEX_SUFFIX",
    "check_files",
    "check_shards",
    "dump_index",
    "open_index",
    "parse_size",
    "read_index",
    "shard_name",
    "split",
]

INDEX_SUFFIX = ".safetensors.index.json"
"""The end of the name of every index; what is before it, is before ``.safetensors`` elsewhere."""

MAX_INDEX = 32 << 20
"""The longest index, in bytes."""

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMGT]i?B|B)?\s*\Z", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("kmgt", 1)
    for kind, base in (("b", 1000), ("ib", 1024))
}
_FILE = re.compile(r"[^\x00-\x1f\x7f\\:/]+(/[^\x00-\x1f\x7f\\:/]+)*\.safetensors\Z")
_SHOWN = 20


def parse_size(size: int | str, *, what: str = "max_shard_size") -> int:
    """A number of bytes, from itself or from text such as ``5GB`` or ``500 MiB``.

    Args:
        size: KB, MB, GB and TB are powers of 1000, as in huggingface_hub; KiB … are of 1024.
        what: what the errors call it.

    Raises:
        InvalidSetting: it is neither, or less than one byte.

    >>> parse_size("5GB"), parse_size("1.5 KiB"), parse_size(7)
    (5000000000, 1536, 7)
    """
    count = size if type(size) is int else 0
    if isinstance(size, str) and (match := _SIZE.match(size)):
        count = int(float(match[1]) * _FACTORS[(match[2] or "").lower()])
    if count < 1:
        raise InvalidSetting(
            f"{what}: expected bytes, such as '5GB', '500MB' or 1000, not {size!r}"
        )
    return count


def split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in groups, in their order, each as full as ``limit`` allows.

    A name that is larger by itself has a group of its own; no group is empty, unless it is all.

    >>> split({"a": 2, "b": 3, "c": 9, "d": 1}, 5)
    [['a', 'b'], ['c'], ['d']]
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def shard_name(name: str, number: int, count: int) -> str:
    """What a shard of a weights file is called.

    >>> shard_name("model.safetensors", 1, 2)
    'model-00001-of-00002.safetensors'
    """
    return f"{name.removesuffix('.safetensors')}-{number:05d}-of-{count:05d}.safetensors"


def dump_index(weight_map: Mapping[str, str], *, total_size: int) -> bytes:
    """An index as JSON, with sorted keys: equal states give equal bytes."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    return (json.dumps(index, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def read_index(data: bytes, *, what: str) -> dict[str, str]:
    """Which tensor an index says to be in which file; a file is a path below the index's folder.

    Raises:
        InvalidWeights: it is not JSON of this form, or a file is none that could be there.

    >>> read_index(b'{"weight_map": {"a": "../b.safetensors"}}', what="index")
    Traceback (most recent call last):
    hubstate.errors.InvalidWeights: index: a: expected the name of a .safetensors file beside it, \
found '../b.safetensors'
    """
    index = loads(data, what=what, max_bytes=MAX_INDEX, max_depth=8, error=InvalidWeights)
    found: Any = index.get("weight_map") if type(index) is dict else None
    if type(found) is not dict or not found:
        raise InvalidWeights(f"{what}: expected an object with a weight_map of names to files")
    bad = {name: file for name, file in found.items() if not _is_file(file)}
    expected = "expected the name of a .safetensors file beside it"
    _raise(what, (f"{name}: {expected}, found {file!r:.200}" for name, file in bad.items()))
    return found


def _is_file(file: object) -> bool:
    plain = isinstance(file, str) and len(file) <= 1000 and _FILE.match(file)
    return bool(plain) and not {".", "..", ".git"} & set(str(file).split("/"))


def check_files(weight_map: Mapping[str, str], there: Container[str], *, what: str) -> list[str]:
    """The files that an index names, in its order.

    Raises:
        InvalidWeights: some are not there; they are named.
    """
    files = list(dict.fromkeys(weight_map.values()))
    absent = (file for file in files if file not in there)
    _raise(what, (f"expected the file {file}, found none" for file in absent))
    return files


def check_shards(
    weight_map: Mapping[str, str], shards: Mapping[str, Collection[str]], *, what: str
) -> None:
    """Hold an index against the names that each of its files really has.

    Raises:
        InvalidWeights: they are not exactly those; every difference is in the message.
    """
    _raise(what, _differences(weight_map, shards))


def _differences(
    weight_map: Mapping[str, str], shards: Mapping[str, Collection[str]]
) -> Iterator[str]:
    for name, file in weight_map.items():
        if name not in shards[file]:
            yield f"{name}: expected in {file}, found no such tensor there"
    for file, names in shards.items():
        for name in names:
            place = weight_map.get(name)
            if place != file:
                yield f"{name}: expected {'in ' + place if place else 'nowhere'}, found in {file}"


def _raise(what: str, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        more = [f"… and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise InvalidWeights("\n  ".join([f"{what}: {found[0]}", *found[1:_SHOWN], *more]))


def open_index(path: Path) -> dict[str, Path]:
    """The files that an index on disk names, once their headers agree with it.

    Raises:
        InvalidWeights: the index or a file breaks its format, a file is missing, or they differ.
        OSError: the index cannot be read.
    """
    weight_map = read_index(path.read_bytes(), what=path.name)
    there = {file for file in set(weight_map.values()) if (path.parent / file).is_file()}
    files = check_files(weight_map, there, what=path.name)
    paths = {file: path.parent / file for file in files}
    shards = {file: read_header(place).tensors for file, place in paths.items()}
    check_shards(weight_map, shards, what=path.name)
    return paths
