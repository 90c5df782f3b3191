"""The tables of what came by Xet; ``xet.py`` beside this file has the drawing.

Hashes are 32 bytes here. In the blobs table, which plain readers see, a Xet hash is text.
"""

from __future__ import annotations

import sqlalchemy as sa

from hubstate_registry.storage.schema import metadata

__all__ = ["xet_files", "xet_terms", "xorb_chunks", "xorb_uploads", "xorbs"]

xorbs = sa.Table(
    "xorbs",
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("stored", sa.BigInteger, nullable=False),  # bytes on disk
    sa.Column("chunks", sa.LargeBinary, nullable=False),  # see hubstate_registry.xet.xorb
    sa.Column("touched", sa.Float, nullable=False),  # when it was last brought or named
)

xorb_uploads = sa.Table(
    "xorb_uploads",
    metadata,
    sa.Column("xorb", sa.ForeignKey(xorbs.c.hash, ondelete="CASCADE"), primary_key=True),
    sa.Column("user", sa.Text, primary_key=True),
)

xorb_chunks = sa.Table(
    "xorb_chunks",
    metadata,
    sa.Column("chunk", sa.LargeBinary, primary_key=True),
    sa.Column(
        "xorb", sa.ForeignKey(xorbs.c.hash, ondelete="CASCADE"), primary_key=True, index=True
    ),
    sa.Column("position", sa.Integer, primary_key=True),
)

xet_files = sa.Table(
    "xet_files",
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column(
        "sha256",
        sa.ForeignKey("blobs.sha256", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)

xet_terms = sa.Table(
    "xet_terms",
    metadata,
    sa.Column("file", sa.ForeignKey(xet_files.c.hash, ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("xorb", sa.ForeignKey(xorbs.c.hash), nullable=False, index=True),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("stop", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)
