"""Bodies of requests: bounded in size, read with bounded patience, handed on while they come.

Two rules end a body that does not come: its next bytes must be here within ``read_seconds``, and
over every ``pace_seconds`` of waiting for it there must be ``pace_bytes`` a second. Time in which
this server is busy with what has come counts for neither.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import cast

import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from hubstate_registry.errors import BadRequest, TooLarge, TooSlow
from hubstate_registry.settings import Limits

__all__ = ["declared_length", "hand_on", "read_body", "stream_body"]

_BLOCK = 1 << 20


def declared_length(scope: Scope) -> int | None:
    """The Content-Length, where there is one.

    Raises:
        BadRequest: it is no number.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise BadRequest("Content-Length is not a number")
            return int(value)
    return None


async def stream_body(
    scope: Scope, receive: Receive, *, limit: int, limits: Limits
) -> AsyncIterator[bytearray]:
    """The body as it arrives, in blocks of about a mebibyte.

    Raises:
        TooLarge: it is, or says it will be, over ``limit`` bytes.
        TooSlow: nothing arrived for too long, or too little.
        ClientDisconnect: the caller went away.
    """
    length = declared_length(scope)
    if length is not None and length > limit:
        raise TooLarge(f"the body may have {limit} bytes, this one has {length}")
    patience = _Patience(receive, limits)
    pending, size, more = bytearray(), 0, True
    while more:
        message = await patience.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body may have {limit} bytes")
        if len(chunk) >= _BLOCK and not pending:
            yield chunk
            continue
        pending += chunk
        if len(pending) >= _BLOCK or (not more and pending):
            yield pending
            pending = bytearray()


async def read_body(scope: Scope, receive: Receive, *, limit: int, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is over ``limit`` bytes.
        TooSlow: nothing arrived for too long, or too little.
        ClientDisconnect: the caller went away.
    """
    blocks = [block async for block in stream_body(scope, receive, limit=limit, limits=limits)]
    return b"".join(blocks)


async def hand_on(blocks: AsyncIterator[bytearray], take: Callable[[bytearray], None]) -> None:
    """Give each block to ``take``, in a thread, while the next one arrives; three at most exist."""
    before: asyncio.Task[None] | None = None
    try:
        async for block in blocks:
            if before is not None:
                await before
            before = asyncio.create_task(anyio.to_thread.run_sync(take, block))
        if before is not None:
            await before
    finally:
        if before is not None:  # whatever happened, nobody is left who still takes
            await asyncio.gather(before, return_exceptions=True)


async def _wait(receiving: Coroutine[object, None, Message], *, seconds: float) -> Message:
    """Receive within some time; what is here already needs no clock, which would cost more."""
    try:
        first = receiving.send(None)
    except StopIteration as end:
        return cast(Message, end.value)
    async with asyncio.timeout(seconds):
        return await _go_on(receiving, first)


@types.coroutine
def _go_on(
    begun: Coroutine[object, None, Message], first: object
) -> Generator[object, None, Message]:
    """Wait for what a coroutine that has begun waits for, and then on with it."""
    try:
        yield first
    except BaseException:
        begun.close()
        raise
    return (yield from begun.__await__())


class _Patience:
    """Receives, and keeps an eye on the clock."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._waited, self._count = 0.0, 0  # since the pace was last looked at

    async def receive(self) -> Message:
        began = time.monotonic()
        try:
            receiving = cast(Coroutine[object, None, Message], self._receive())
            message = await _wait(receiving, seconds=self._limits.read_seconds)
        except TimeoutError:
            raise TooSlow(f"nothing arrived for {self._limits.read_seconds} seconds") from None
        self._waited += time.monotonic() - began
        self._count += len(message.get("body", b""))
        if self._waited >= self._limits.pace_seconds and message.get("more_body", False):
            self._look()
        return message

    def _look(self) -> None:
        wanted = self._limits.pace_bytes
        if self._count < wanted * self._waited:
            found = self._count / self._waited
            raise TooSlow(f"{found:.0f} bytes a second arrive, at least {wanted} are waited for")
        self._waited, self._count = 0.0, 0
