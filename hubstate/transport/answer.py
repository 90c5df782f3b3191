"""An answer to a request: its status and headers, and a body that is still to be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from urllib3 import BaseHTTPResponse

__all__ = ["Answer"]


class Answer:
    """What a server has answered, to be closed; a body that was read whole keeps its connection.

    Args:
        raw: the body as urllib3 has it.
        url: that was asked, after all redirects.
    """

    __slots__ = ("headers", "raw", "status", "url")

    def __init__(self, raw: BaseHTTPResponse, *, url: str) -> None:
        self.raw: Any = raw
        self.url = url
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def status_line(self) -> str:
        """The status in numbers and words."""
        return f"{self.status} {self.raw.reason or ''}".strip()

    @property
    def following(self) -> str | None:
        """The next page of a list, as the ``Link`` header names it."""
        if "Link" not in self.headers:
            return None
        from requests.utils import parse_header_links

        links = parse_header_links(self.headers["Link"])
        return next((link["url"] for link in links if link.get("rel") == "next"), None)

    def parts(self, size: int) -> Iterator[bytes]:
        """The body as it comes, decompressed.

        Raises:
            urllib3.exceptions.HTTPError: it broke off.
        """
        yield from self.raw.stream(size, decode_content=True)

    def close(self) -> None:
        """Let go of the connection."""
        if not self.raw.isclosed():
            self.raw.close()
        self.raw.release_conn()
