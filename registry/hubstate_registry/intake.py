"""Long bodies of requests, received in blocks of a mebibyte.

h11 cuts a body into pieces of what one read happens to bring, and each is copied six times until
a route has it. A body of known length needs nothing of h11: it is received where it will be used.

::

    head, and what came with it    h11
    the rest of the body           Intake, if it is long and its length is known
    all that follows               h11
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Intake"]

_BLOCK = 1 << 20
_MOMENT = 0.1  # seconds after which a block is handed on as it is

Receive = Callable[[], Awaitable[Any]]


class Intake(asyncio.BufferedProtocol):
    """What an application receives of one request; the connection's protocol while it is long."""

    def __init__(self, protocol: H11Protocol, receive: Receive) -> None:
        self._protocol, self._receive = protocol, receive
        self._cycle = protocol.cycle
        self._begun, self._left = False, 0
        self._blocks: list[bytearray] = []
        self._block, self._at, self._stop = bytearray(), 0, 0
        self._full = asyncio.Event()

    async def receive(self) -> Any:
        """The next message of the application's ``receive``."""
        if not self._begun:
            message = await self._receive()  # which also tells a client to go on that waits for it
            self._begin(len(message.get("body", b"")))
            return message
        await self._fill()
        if self._is_over():
            return {"type": "http.disconnect"}
        body = memoryview(self._block)[: self._at]
        if self._left:
            self._start_block()
        else:
            self.end()
        return {"type": "http.request", "body": body, "more_body": self._left > 0}

    def end(self) -> None:
        """Give the connection back, with what is left of the body."""
        if self._begun:
            self._begun, self._blocks = False, []
            self._protocol.conn._reader._remaining = self._left  # type: ignore[union-attr]
            self._protocol.transport.set_protocol(self._protocol)
            self._protocol.handle_events()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong."""
        return memoryview(self._block)[self._at : self._stop]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        self._at += nbytes
        self._left -= nbytes
        if self._at == self._stop:
            self._protocol.flow.pause_reading()
            self._full.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._protocol.connection_lost(exc)
        self._full.set()

    def pause_writing(self) -> None:
        """Nothing is answered yet, but the protocol wants to know."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The same."""
        self._protocol.resume_writing()

    def _begin(self, received: int) -> None:
        """Take the connection, if h11 knows that there is much to come.

        The first block ends where the body has whole mebibytes: files are then written so, too.
        """
        self._left = getattr(self._protocol.conn._reader, "_remaining", 0)
        if self._left >= _BLOCK and not self._is_over():
            self._begun = True
            self._start_block(_BLOCK - received % _BLOCK)
            self._protocol.transport.set_protocol(self)

    def _is_over(self) -> bool:
        return self._cycle.disconnected or self._cycle.response_complete

    def _start_block(self, size: int = _BLOCK) -> None:
        self._block, self._at, self._stop = self._find_block(), 0, min(self._left, size)
        self._full.clear()
        self._protocol.flow.resume_reading()

    def _find_block(self) -> bytearray:
        """One that nobody looks at any more: memory that is new costs more than what is done to it.

        A bytearray that somebody has a view of does not let itself grow.
        """
        for block in self._blocks:
            with suppress(BufferError):
                block.append(0)
                block.pop()
                return block
        self._blocks.append(bytearray(_BLOCK))
        return self._blocks[-1]

    async def _fill(self) -> None:
        """Until the block is full, or has waited long enough with what it has."""
        while not self._full.is_set():
            try:
                async with asyncio.timeout(_MOMENT):
                    await self._full.wait()
            except TimeoutError:
                if self._at:
                    return
