"""Xet hashes, xorbs and shards, judged by what the stock client sends and by broken bytes."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xet_capture import Capture, capture_upload

from hubstate_registry.xet import chunks, files, shard
from hubstate_registry.xet.errors import XetError
from hubstate_registry.xet.hashes import (
    ZERO,
    format_hash,
    hash_chunk,
    hash_file,
    hash_term,
    hash_tree,
    parse_hash,
)
from hubstate_registry.xet.xorb import MAX_STORED, Scanner, Xorb, scan

rng = np.random.default_rng(7)
CONTENT = {
    "nothing": b"",
    "byte": b"x",
    "noise": rng.integers(0, 256, 100_000, dtype="u1").tobytes(),
    "floats": rng.normal(size=1_300_000).astype("<f4").tobytes(),
    "text": b"the same words again and again " * 8_000,
}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("sent")
    paths = [folder / name for name in CONTENT]
    for path, content in zip(paths, CONTENT.values(), strict=True):
        path.write_bytes(content)
    return capture_upload(paths, folder / "home")


@pytest.fixture(scope="module")
def stored(sent: Capture) -> dict[bytes, Xorb]:
    names = {parse_hash(name): body for name, body in sent.xorbs.items()}
    return {name: scan([body], hash=name) for name, body in names.items()}


class Disk:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def pread(self, length: int, offset: int) -> bytes:
        return self.data[offset : offset + length]


def make_xorb(*contents: bytes, scheme: chunks.Scheme = chunks.Scheme.NONE) -> bytes:
    return b"".join(chunks.pack(content, scheme=scheme) for content in contents)


def name_of(*contents: bytes) -> bytes:
    return hash_tree((hash_chunk(content), len(content)) for content in contents)


def join(plan: files.Plan, stored: dict[bytes, Xorb], disk: dict[bytes, bytes]) -> bytes:
    return b"".join(files.read(plan, stored, open=lambda name: Disk(disk[name])))


# --- hashes ---------------------------------------------------------------------------------

ONE = "cfc5d07f6f03c29bbf424132963fe08d19a37d5757aaf520bf08119f05cd56d6"
TWO = "c3e67584b5c4fc2a89837ec39e40f2c8a6bb0b2987ac94cd4b31e5fbdd210a72"
THREE = "0d2beb91b9196929a5ddec9f6e306924ddf4a24268e3e59fd8464738d525af37"


@pytest.mark.parametrize(
    ("leaves", "tree", "file"),
    [
        ([], "0" * 64, "0" * 64),
        ([(ONE, 100)], ONE, "8e16257caa3fe079d484d872a8975264b2ff683b0d6db9028cc7c0f968a45661"),
        (
            [(ONE, 100), (TWO, 200), (THREE, 300)],
            "71ec1275fca074724e2dd666921b3277c7cee603e4d025bcab2d4050015be2bc",
            "54e55dccc6653c612bdb5576c5d3cb34bb31bc4e100248abccf4c908b3ef7715",
        ),
        (
            [(ONE, 100)] * 4,
            "89f2ada89ff8c96763c6b25010e6dd76a4c05b1466207633ea559acf2093211b",
            "2cdba690d0e09563596e0cda626d43eb4c96ef1e994fe72d9b2f5a83cfcd36dd",
        ),
    ],
)
def test_the_tree_gives_the_published_hashes(
    leaves: list[tuple[str, int]], tree: str, file: str
) -> None:
    raw = [(parse_hash(value), size) for value, size in leaves]
    assert format_hash(hash_tree(raw)) == tree
    assert format_hash(hash_file(raw)) == file


@given(st.binary(min_size=32, max_size=32))
def test_the_text_of_a_hash_reads_back(value: bytes) -> None:
    assert parse_hash(format_hash(value)) == value


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" + "0" * 63, "A" * 64, "٣" * 64])
def test_other_texts_are_no_hash(text: str) -> None:
    with pytest.raises(XetError, match="64 lower-case hexadecimal digits"):
        parse_hash(text)


# --- what the stock client sends ------------------------------------------------------------


def test_every_xorb_of_the_client_has_the_name_it_was_sent_under(stored: dict[bytes, Xorb]) -> None:
    assert sum(xorb.size for xorb in stored.values()) >= len(CONTENT["floats"])


def test_every_compression_of_the_client_is_met(sent: Capture, stored: dict[bytes, Xorb]) -> None:
    schemes = {
        sent.xorbs[format_hash(xorb.hash)][chunk.start + 4]
        for xorb in stored.values()
        for chunk in xorb.chunks
    }
    assert schemes == {0, 1, 2}


def test_the_shard_of_the_client_passes_every_check(
    sent: Capture, stored: dict[bytes, Xorb]
) -> None:
    parsed = shard.parse(sent.shard)
    for stated in parsed.xorbs:
        files.check_xorb(stated, stored[stated.hash])
    for file in parsed.files:
        files.check_file(file, stored)
    assert {format_hash(file.hash) for file in parsed.files} == set(sent.hashes.values())


def test_the_terms_of_the_client_give_the_files_back(
    sent: Capture, stored: dict[bytes, Xorb]
) -> None:
    disk = {parse_hash(name): body for name, body in sent.xorbs.items()}
    by_hash = {format_hash(file.hash): file for file in shard.parse(sent.shard).files}
    for name, content in CONTENT.items():
        file = by_hash[sent.hashes[name]]
        assert join(files.plan(file.terms, stored), stored, disk) == content
        if content:  # for an empty file the client states a sha256 of zeros
            assert file.sha256 == hashlib.sha256(content).hexdigest()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_planned_range_is_that_range(
    sent: Capture, stored: dict[bytes, Xorb], data: st.DataObject
) -> None:
    disk = {parse_hash(name): body for name, body in sent.xorbs.items()}
    file = next(f for f in shard.parse(sent.shard).files if f.size == len(CONTENT["floats"]))
    # the same terms twice, and a part of them again: ranges that cross terms, runs that overlap
    term = file.terms[0]
    part = term._replace(
        stop=term.start + 3,
        size=sum(c.size for c in stored[term.xorb].chunks[term.start : term.start + 3]),
    )
    terms = (part, *file.terms, part)
    content = CONTENT["floats"][: part.size] + CONTENT["floats"] + CONTENT["floats"][: part.size]
    start = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.integers(start + 1, len(content) + 10))
    wanted = files.plan(terms, stored, start=start, stop=stop)
    assert join(wanted, stored, disk) == content[start:stop]
    for kept in wanted.terms:
        assert any(
            kept.start >= fetch.chunks.start and kept.stop <= fetch.chunks.stop
            for fetch in wanted.fetches[kept.xorb]
        )


def test_a_range_beyond_the_file_is_refused(stored: dict[bytes, Xorb], sent: Capture) -> None:
    file = next(f for f in shard.parse(sent.shard).files if f.size == 1)
    for start, stop in [(1, 2), (0, 0), (5, 3)]:
        with pytest.raises(XetError, match=r"range: no bytes"):
            files.plan(file.terms, stored, start=start, stop=stop)


def test_an_answer_has_the_shape_that_clients_read(
    stored: dict[bytes, Xorb], sent: Capture
) -> None:
    file = next(f for f in shard.parse(sent.shard).files if f.size == len(CONTENT["noise"]))
    wanted = files.plan(file.terms, stored, start=10, stop=20)
    first, second = (answer(lambda *_: "http://x/") for answer in (wanted.to_v1, wanted.to_v2))
    assert first["offset_into_first_range"] == second["offset_into_first_range"] == 10
    (name,) = first["fetch_info"]
    (fetch,) = first["fetch_info"][name]
    chunk = stored[parse_hash(name)].chunks[file.terms[0].start]
    assert fetch["url_range"] == {"start": chunk.start, "end": chunk.stop - 1}
    (ranged,) = second["xorbs"][name][0]["ranges"]
    assert (ranged["chunks"], ranged["bytes"]) == (fetch["range"], fetch["url_range"])


# --- xorbs ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30),
    st.sampled_from(chunks.Scheme),
    st.integers(1, 500),
)
def test_a_xorb_scans_alike_in_pieces_of_any_size(
    contents: list[bytes], scheme: chunks.Scheme, piece: int
) -> None:
    data = make_xorb(*contents, scheme=scheme)
    whole = scan([data], hash=name_of(*contents))
    pieces = (data[at : at + piece] for at in range(0, len(data), piece))
    assert scan(pieces, hash=whole.hash) == whole
    assert Xorb.unpack_index(whole.pack_index(), hash=whole.hash) == whole
    assert (whole.size, whole.stored) == (sum(map(len, contents)), len(data))


def test_a_footer_is_accepted_and_left_out() -> None:
    data, name = make_xorb(b"one", b"two"), name_of(b"one", b"two")
    footed = scan([data + b"XETBLOB\x01" + name + bytes(100)], hash=name)
    assert footed == scan([data], hash=name)
    assert footed.stored == len(data)


BOMB = lz4.frame.compress(bytes(50 << 20), content_checksum=True)
HEAD = chunks.pack(b"abcd")
BROKEN = {
    "no whole chunk": b"",
    "after the last whole chunk": HEAD + b"\0",
    "chunk version: expected 0, found 9": b"\x09" + HEAD[1:],
    "compression scheme: expected 0, 1 or 2, found 3": HEAD[:4] + b"\3" + HEAD[5:],
    "content size: expected 1 to 131072, found 0": b"\0\1\0\0\0\0\0\0x",
    "content size: expected 1 to 131072, found 131073": b"\0\1\0\0\0\1\0\2x",
    "data size: expected 1 to 132096, found 0": b"\0\0\0\0\0\1\0\0",
    "expected 4 bytes, found 3": b"\0\3\0\0\0\4\0\0abc",
    "LZ4 frame": b"\0\3\0\0\1\4\0\0abc",
    "expected 1000 bytes, found more than 1000": b"\0"
    + (131_072).to_bytes(3, "little")
    + b"\1"
    + (1000).to_bytes(3, "little")
    + BOMB[:131_072],
    "footer: 27 bytes are too few": HEAD + b"XETBLOB" + bytes(20),
    "footer version": HEAD + b"XETBLOB\2" + name_of(b"abcd"),
    "footer: names": HEAD + b"XETBLOB\1" + bytes(32),
    "footer: more than": HEAD + b"XETBLOB\1" + bytes(1 << 20),
    "longer or shorter than the frame": b"".join(
        [b"\0", (len(BOMB[:40])).to_bytes(3, "little"), b"\1", b"\0\0\1", BOMB[:40]]
    ),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_xorb_is_named(problem: str) -> None:
    with pytest.raises(XetError, match=problem):
        scan([BROKEN[problem]], hash=name_of(b"abcd"))


def test_a_xorb_under_a_wrong_name_is_refused() -> None:
    with pytest.raises(XetError, match="expected content named 0000"):
        scan([HEAD], hash=ZERO)


def test_an_endless_xorb_is_cut_off() -> None:
    pieces = itertools.repeat(make_xorb(bytes(131_072)))
    with pytest.raises(XetError, match="chunk 512: more than 67108864 bytes of content"):
        scan(pieces, hash=ZERO)
    with pytest.raises(XetError, match="chunk 8192: more than 8192 chunks"):
        scan(itertools.repeat(make_xorb(b"x") * 100), hash=ZERO)
    assert MAX_STORED < 1 << 27


def test_a_scan_holds_one_chunk_only() -> None:
    scanner, one = Scanner(), make_xorb(bytes(100_000))
    for _ in range(20):
        scanner.feed(one + one[:-1])
        scanner.feed(one[-1:])
        assert len(scanner._rest) <= 131_072 + 8


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_broken_xorb_passes_for_another(data: st.DataObject) -> None:
    scheme = data.draw(st.sampled_from(chunks.Scheme))
    contents = [b"first chunk " * 30, b"second", bytes(range(256)) * 4]
    good = bytearray(make_xorb(*contents, scheme=scheme))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    scanner = Scanner()
    try:
        scanner.feed(bytes(good))
        found = scanner.finish()
    except XetError:
        return
    content = join(
        files.plan([shard.Term(found.hash, 0, len(found.chunks), found.size)], {found.hash: found}),
        {found.hash: found},
        {found.hash: bytes(good)},
    )
    # LZ4 has bits that mean nothing: then the content, and so the name, is unchanged.
    assert (found.hash == name_of(*contents)) == (content == b"".join(contents))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_cleanly(noise: bytes) -> None:
    for parser in (lambda: scan([noise], hash=ZERO), lambda: shard.parse(noise)):
        with pytest.raises(XetError):
            parser()


def test_rot_on_the_disk_is_not_served() -> None:
    data, name = bytearray(make_xorb(b"one", b"two")), name_of(b"one", b"two")
    stored = {name: scan([bytes(data)], hash=name)}
    plan = files.plan([shard.Term(name, 0, 2, 6)], stored)
    data[-1] ^= 1
    with pytest.raises(XetError, match=r"is not chunk .* any more"):
        join(plan, stored, {name: bytes(data)})
    with pytest.raises(XetError, match="ends after 0 bytes"):
        join(plan, stored, {name: bytes(data[:11])})


# --- shards ---------------------------------------------------------------------------------

CONTENTS = (b"one", b"two!", b"three")
XORB = scan([make_xorb(*CONTENTS)], hash=name_of(*CONTENTS))
FILE = shard.ShardFile(
    hash=hash_file([(c.hash, c.size) for c in XORB.chunks[1:]]),
    terms=(shard.Term(XORB.hash, 1, 3, 9),),
    verification=(hash_term(c.hash for c in XORB.chunks[1:]),),
    sha256="ab" * 32,
)
SHARD = shard.Shard(files=(FILE,), xorbs=(shard.describe_xorb(XORB),))
WRITTEN = shard.write(SHARD, created=1, expires=2)


def test_a_shard_reads_back() -> None:
    assert shard.parse(WRITTEN) == SHARD
    files.check_file(FILE, {XORB.hash: XORB})
    files.check_xorb(SHARD.xorbs[0], XORB)


def test_chunks_out_of_sight_keep_their_place_and_lose_their_name() -> None:
    described = shard.describe_xorb(XORB, visible=[range(1, 2)])
    assert [chunk.hash for chunk in described.chunks] == [ZERO, XORB.chunks[1].hash, ZERO]
    assert [chunk.offset for chunk in described.chunks] == [0, 3, 7]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (replace(FILE, verification=None), "states no verification hashes"),
        (replace(FILE, verification=(ZERO,)), "verification hash is not that of its chunks"),
        (replace(FILE, terms=(FILE.terms[0]._replace(size=8),)), "stated 8 bytes, its chunks have"),
        (replace(FILE, terms=(FILE.terms[0]._replace(stop=4),)), "chunk 3 of a xorb that has 3"),
        (replace(FILE, terms=(FILE.terms[0]._replace(xorb=ZERO),)), "is not stored here"),
        (replace(FILE, hash=ZERO), "its terms make"),
    ],
)
def test_a_file_that_contradicts_its_xorbs_is_refused(wrong: shard.ShardFile, problem: str) -> None:
    with pytest.raises(XetError, match=problem):
        files.check_file(wrong, {XORB.hash: XORB})


def test_a_xorb_that_contradicts_the_stored_one_is_refused() -> None:
    other = shard.describe_xorb(XORB, visible=[])
    with pytest.raises(XetError, match="not those of the stored xorb"):
        files.check_xorb(other, XORB)
    with pytest.raises(XetError, match="is not stored here"):
        files.check_xorb(other, None)


@given(st.integers(0, len(WRITTEN) - 1))
def test_a_shard_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(XetError):
        shard.parse(WRITTEN[:length])


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(WRITTEN) - 1), st.binary(min_size=1, max_size=8))
def test_a_changed_shard_is_refused_or_read(at: int, change: bytes) -> None:
    try:
        shard.parse(WRITTEN[:at] + change + WRITTEN[at + len(change) :])
    except XetError as error:
        assert error.where and error.problem


def test_counts_that_do_not_fit_make_nothing() -> None:
    header = WRITTEN[:48]
    huge = bytes(32) + (1 << 31).to_bytes(4, "little") + b"\xff" * 4 + bytes(8)
    with pytest.raises(XetError, match=r"4294967295|8589934590"):
        shard.parse(header + huge)


def test_the_smallest_real_file_matches_the_client(sent: Capture, tmp_path: Path) -> None:
    leaf = (hash_chunk(b"x"), 1)
    assert format_hash(hash_file([leaf])) == sent.hashes["byte"]
    assert format_hash(hash_file([])) == sent.hashes["nothing"]
