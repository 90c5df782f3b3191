"""uvicorn's HTTP/1.1 protocol, with an end to its patience at both ends of a request.

uvicorn itself waits for ever for the end of a head that has begun, and for a reader who takes
nothing of an answer, so that a thousand such connections would hold all that a process may have.
(Bodies are given up in ``bodies.py``.)
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hubstate_registry.intake import Intake

__all__ = ["PatientProtocol"]


class PatientProtocol(H11Protocol):
    """Closes connections whose request head does not come, or whose answer is not taken."""

    SECONDS = 20.0
    """A head must be here within this time."""
    READER_SECONDS = 30.0
    READER_BYTES = 30 * 1024
    """Of an answer that waits, so much must be taken within ``READER_SECONDS``."""

    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _intake: Intake | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first head."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait on if they end in the middle of a head."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self.cycle.more_body:
            self._intake = Intake(self, self.cycle.receive)
            self.cycle.receive = self._intake.receive  # type: ignore[method-assign]
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._wait()

    def on_response_complete(self) -> None:
        """What is left of the body, if anything, is for h11 to drop."""
        if self._intake is not None:
            self._intake.end()
            self._intake = None
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The reader is behind: look now and then whether it goes on."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The reader has caught up."""
        self._unwatch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop()
        self._unwatch()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        busy: Any = self.cycle is not None and not self.cycle.response_complete
        if not busy and not self.transport.is_closing():
            self.transport.close()

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.READER_SECONDS, self._look, left)

    def _unwatch(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _look(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < self.READER_BYTES:
            self.transport.abort()  # to close would wait for the reader
        else:
            self._watch()
