"""Digests as values, and hashing on all cores."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.digest import Digest, hash_file, hash_ranges


@given(st.binary())
def test_a_digest_survives_text_and_copies(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest.hex == hashlib.sha256(data).hexdigest()
    assert Digest.parse(str(digest)) == digest
    assert copy.deepcopy(digest) == digest
    assert {digest: 1}[Digest(digest.hex)] == 1


@given(st.text(max_size=80))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        Digest.parse(text)


def test_a_digest_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Digest.of(b"").hex = "0" * 64


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ranges_are_hashed_as_they_are_in_the_file(tmp_path: Path, threads: int) -> None:
    data = bytes(range(256)) * 20_000
    path = tmp_path / "file"
    path.write_bytes(data)
    ranges = [(0, 10), (10, 10), (5, len(data)), (3_000_000, 4_500_001), (len(data) - 1, len(data))]
    told: list[int] = []
    found = hash_ranges(path, ranges, threads=threads, progress=told.append)
    assert found == [Digest.of(data[start:stop]) for start, stop in ranges]
    assert sum(told) == sum(stop - start for start, stop in ranges)


def test_a_range_past_the_end_matches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert hash_ranges(path, [(1, 9)]) == [Digest.of(b"bc")]


def test_a_whole_file_is_hashed_with_progress(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    told: list[int] = []
    assert hash_file(path, progress=told.append) == Digest.of(b"x" * 3_000_000)
    assert sum(told) == 3_000_000
