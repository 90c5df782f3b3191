"""The tables. What they may hold is here; how they came to be is in ``migrations``.

::

    namespaces ─┬─< memberships          a user or an organisation; who belongs to which
                ├─< tokens               hashed, scoped by namespace, expiring, revocable
                └─< repositories ─┬─< repository_tags     for search
                                  ├─< redirects           ids that were moved away from
                                  ├─< commits             each with its whole tree
                                  ├─< references          branches, tags: compare-and-swap
                                  └─< holdings >── blobs  which repository may speak of which bytes
    audit                                                 who moved which reference, for ever
    changes                                               what changed last, by triggers

A blob's bytes are known by hash to the whole server, but a hash alone opens nothing: a
repository may commit, and a reader may read, only what the repository *holds*.
Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "audit",
    "blobs",
    "changes",
    "commits",
    "holdings",
    "memberships",
    "metadata",
    "namespaces",
    "redirects",
    "references",
    "repositories",
    "repository_tags",
    "tokens",
]

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

namespaces = sa.Table(
    "namespaces",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),  # the name in lower case
    sa.Column("kind", sa.Text, nullable=False),  # user | organisation
    sa.Column("admin", sa.Boolean, nullable=False),  # of the whole registry
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("organisation", sa.ForeignKey(namespaces.c.name), primary_key=True),
    sa.Column("user", sa.ForeignKey(namespaces.c.name), primary_key=True, index=True),
    sa.Column("role", sa.Text, nullable=False),  # read | write | admin
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # public: names the token in lists and logs
    sa.Column("digest", sa.Text, nullable=False, unique=True),  # sha256 of the secret
    sa.Column("user", sa.ForeignKey(namespaces.c.name), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # JSON: namespace or "*" -> role
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
)

repositories = sa.Table(
    "repositories",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("namespace", sa.Text, nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("private", sa.Boolean, nullable=False),
    sa.Column("gated", sa.Text, nullable=False),  # "" | auto | manual
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("modified", sa.Float, nullable=False, index=True),
    sa.Column("card", sa.Text, nullable=False),  # JSON of the front-matter of main's README.md
    sqlite_autoincrement=True,  # so that the number of a deleted repository never comes back
)

repository_tags = sa.Table(
    "repository_tags",
    metadata,
    sa.Column("repository", sa.ForeignKey(repositories.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True, index=True),
)

redirects = sa.Table(
    "redirects",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("repository", sa.ForeignKey(repositories.c.id, ondelete="CASCADE"), nullable=False),
)

commits = sa.Table(
    "commits",
    metadata,
    sa.Column("repository", sa.ForeignKey(repositories.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("parent", sa.Text),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("tree", sa.LargeBinary, nullable=False),  # see trees.py
)

references = sa.Table(
    "refs",
    metadata,
    sa.Column("repository", sa.ForeignKey(repositories.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),  # branch | tag
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("commit", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.Text, nullable=False),  # file | xet
    sa.Column("xet", sa.Text),  # the Xet hash, once a client has brought it by Xet
    sa.Column("created", sa.Float, nullable=False),
)

holdings = sa.Table(
    "holdings",
    metadata,
    sa.Column("repository", sa.ForeignKey(repositories.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("sha256", sa.ForeignKey(blobs.c.sha256), primary_key=True, index=True),
    sa.Column("touched", sa.Float, nullable=False),  # when the repository was last told it has it
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("repository", sa.Text, nullable=False, index=True),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("old", sa.Text, nullable=False),
    sa.Column("new", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("repository", sa.Integer, nullable=False),  # 0 is everything; see the migration
    sqlite_autoincrement=True,
)
