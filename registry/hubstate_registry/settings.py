"""What an operator may choose, as values; the command line is the only place that makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Limits", "Settings"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds, rates in requests a minute."""

    json_bytes: int = 8 * MIB
    """A JSON or form body."""
    anonymous_bytes: int = 512 * 1024
    """The same of a caller without a token: all connections together must fit in memory."""
    header_bytes: int = 64 * 1024
    """All headers of a request together."""
    commit_bytes: int = 1024 * MIB
    """The whole ndjson body of a commit."""
    commit_operations: int = 100_000
    """Lines of a commit."""
    inline_bytes: int = 16 * MIB
    """One file inside a commit body; larger ones go by LFS or Xet."""
    regular_bytes: int = MIB
    """Files up to this size travel inside the commit body, unless their names end like weights."""
    files: int = 100_000
    """Files of one commit's tree."""
    object_bytes: int = 1 << 40
    """One large file."""
    multipart_bytes: int = 1024 * MIB
    """Large files over this size are uploaded in parts of ``part_bytes``."""
    part_bytes: int = 256 * MIB
    upload_seconds: int = 6 * 3600
    """How long a signed upload address is good for."""
    read_seconds: float = 60.0
    """A body must bring its next bytes within this time."""
    pace_seconds: float = 30.0
    pace_bytes: int = 1024
    """A second, on the average of ``pace_seconds`` of waiting for a body; 0 is no limit."""
    requests_per_minute: int = 12_000
    """For each token, or address of a caller without one; 0 is no limit."""
    failures_per_minute: int = 60
    """Wrong tokens from one address; 0 is no limit."""
    connections: int = 1024
    """Connections and running requests of one process; more get 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the registry keeps its data, and how it behaves."""

    root: Path
    base_url: str | None = None
    """What clients call this server, when a proxy hides it; else the Host header says it."""
    anonymous: bool = True
    """Whether public repositories can be read without a token."""
    public_metrics: bool = False
    """Whether /metrics answers without an administrator's token."""
    accel_prefix: str | None = None
    """The internal nginx location that serves the blobs folder (X-Accel-Redirect)."""
    limits: Limits = field(default_factory=Limits)
