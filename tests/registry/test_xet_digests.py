"""A file's sha256, begun before the shard says which file it is."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate_registry.xet import digests
from hubstate_registry.xet.digests import Beginnings, Growth, Hashing

CONTENT = {bytes([n]) * 32: hashlib.shake_128(bytes([n])).digest(50 + n) for n in range(6)}
NAMES = list(CONTENT)


async def arrive(beginnings: Beginnings, xorb: bytes, *, caller: str = "ada") -> bool:
    """Let one arrive; whether it was hashed on the way."""
    async with beginnings.growing(caller) as growth:
        return land(growth, xorb)


def land(growth: Growth | None, xorb: bytes) -> bool:
    if growth is None:
        return False
    growth.take(CONTENT[xorb][:20])
    growth.take(CONTENT[xorb][20:])
    growth.finish(xorb)
    return True


def check(beginnings: Beginnings, xorbs: Sequence[bytes]) -> int:
    """How far a file is known; what is known of it must be true."""
    count, state = beginnings.find(xorbs)
    whole = b"".join(CONTENT[xorb] for xorb in xorbs[:count])
    assert state.digest() == hashlib.sha256(whole).digest()
    return count


def test_what_came_in_order_is_known_to_its_end_and_to_every_xorb_before() -> None:
    beginnings = Beginnings()

    async def go() -> None:
        assert all([await arrive(beginnings, xorb) for xorb in NAMES[:4]])

    asyncio.run(go())
    assert check(beginnings, NAMES[:4]) == 4
    assert check(beginnings, [*NAMES[:2], NAMES[5], NAMES[3]]) == 2
    assert check(beginnings, NAMES[1:4]) == 0
    assert check(beginnings, []) == 0


def test_a_shard_and_another_caller_begin_anew() -> None:
    beginnings = Beginnings()

    async def go() -> None:
        await arrive(beginnings, NAMES[0])
        await arrive(beginnings, NAMES[3], caller="eve")
        beginnings.end("ada")
        await arrive(beginnings, NAMES[1])
        await arrive(beginnings, NAMES[4], caller="eve")

    asyncio.run(go())
    assert check(beginnings, NAMES[:2]) == 1
    assert check(beginnings, [NAMES[1]]) == 1
    assert check(beginnings, NAMES[3:5]) == 2


def test_a_xorb_that_breaks_off_leaves_the_run_as_it_was() -> None:
    beginnings = Beginnings()

    async def go() -> None:
        await arrive(beginnings, NAMES[0])
        with pytest.raises(ConnectionError):
            async with beginnings.growing("ada") as growth:
                assert growth is not None
                growth.take(b"something")
                raise ConnectionError
        await arrive(beginnings, NAMES[1])

    asyncio.run(go())
    assert check(beginnings, NAMES[:2]) == 2


def test_the_next_one_waits_for_the_one_before() -> None:
    beginnings = Beginnings()

    async def go() -> None:
        async with beginnings.growing("ada") as growth:
            others = [asyncio.create_task(arrive(beginnings, xorb)) for xorb in NAMES[1:3]]
            await asyncio.sleep(0.01)
            land(growth, NAMES[0])
        assert all([await other for other in others])

    asyncio.run(go())
    assert check(beginnings, NAMES[:3]) == 3


def test_nobody_waits_long_nor_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MOMENT", 0.05)
    beginnings = Beginnings()

    async def go() -> None:
        async with beginnings.growing("ada") as growth:
            assert not await arrive(beginnings, NAMES[1])
            monkeypatch.setattr(digests, "_MOMENT", 1e6)
            assert not await arrive(beginnings, NAMES[2])
            land(growth, NAMES[0])
        assert not await arrive(beginnings, NAMES[3])
        beginnings.end("ada")
        assert await arrive(beginnings, NAMES[4])

    asyncio.run(go())
    assert check(beginnings, NAMES[:4]) == 1
    assert check(beginnings, [NAMES[4]]) == 1


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.booleans(), st.booleans()), max_size=6),
    st.lists(st.sampled_from(NAMES), max_size=6),
)
def test_whatever_arrives_however_what_is_known_is_true(
    arrivals: list[tuple[bytes, bool, bool]], file: list[bytes]
) -> None:
    beginnings = Beginnings()

    async def go() -> None:
        async with AsyncExitStack() as stack:
            for xorb, whole, shard in arrivals:
                if whole:
                    await arrive(beginnings, xorb)
                else:  # stays on its way until the end, and keeps the others from their turn
                    growth = await stack.enter_async_context(beginnings.growing("ada"))
                    stack.callback(land, growth, xorb)
                if shard:
                    beginnings.end("ada")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "_MOMENT", 0)
        asyncio.run(go())
    check(beginnings, file)
    check(beginnings, [xorb for xorb, _, _ in arrivals])


def test_states_are_forgotten_before_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MOST", 3)
    beginnings = Beginnings()

    async def go() -> None:
        for caller, xorb in enumerate(NAMES):
            await arrive(beginnings, xorb, caller=str(caller))

    asyncio.run(go())
    assert [check(beginnings, [xorb]) for xorb in NAMES] == [0, 0, 0, 1, 1, 1]


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_hashing_in_a_thread_is_hashing(pieces: list[bytes], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "_BLOCK", block)
        hashing = Hashing(hashlib.sha256())
        for piece in pieces:
            hashing.take(piece)
        assert hashing.finish().digest() == hashlib.sha256(b"".join(pieces)).digest()
