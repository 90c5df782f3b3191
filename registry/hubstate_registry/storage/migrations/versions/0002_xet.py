"""Xorbs, the chunks that clients may ask for, and files as terms over them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "xorbs",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.LargeBinary(), nullable=False),
        sa.Column("touched", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_xorbs")),
    )
    op.create_table(
        "xorb_uploads",
        sa.Column("xorb", sa.LargeBinary(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["xorb"], ["xorbs.hash"], name=op.f("fk_xorb_uploads_xorb"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("xorb", "user", name=op.f("pk_xorb_uploads")),
    )
    op.create_table(
        "xorb_chunks",
        sa.Column("chunk", sa.LargeBinary(), nullable=False),
        sa.Column("xorb", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["xorb"], ["xorbs.hash"], name=op.f("fk_xorb_chunks_xorb"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("chunk", "xorb", "position", name=op.f("pk_xorb_chunks")),
    )
    op.create_index(op.f("ix_xorb_chunks_xorb"), "xorb_chunks", ["xorb"], unique=False)
    op.create_table(
        "xet_files",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name=op.f("fk_xet_files_sha256"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_xet_files")),
    )
    op.create_index(op.f("ix_xet_files_sha256"), "xet_files", ["sha256"], unique=False)
    op.create_table(
        "xet_terms",
        sa.Column("file", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("xorb", sa.LargeBinary(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file"], ["xet_files.hash"], name=op.f("fk_xet_terms_file"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["xorb"], ["xorbs.hash"], name=op.f("fk_xet_terms_xorb")),
        sa.PrimaryKeyConstraint("file", "position", name=op.f("pk_xet_terms")),
    )
    op.create_index(op.f("ix_xet_terms_xorb"), "xet_terms", ["xorb"], unique=False)
