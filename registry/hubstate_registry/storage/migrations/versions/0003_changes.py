"""A journal of what changed, so that servers need not forget what did not.

Triggers write it, whoever writes the rest. A repository's number stands for the repository; 0
stands for everything: accounts, on which what callers may do depends, and bytes that are now
stored elsewhere. The last 10,000 changes are kept: who is further behind forgets everything.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_KEPT = 10_000
_OF_REPOSITORIES = {"repositories": "id", "refs": "repository", "commits": "repository"}
_OF_EVERYTHING = ("namespaces", "memberships", "tokens")


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("repository", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_changes")),
        sqlite_autoincrement=True,
    )
    for table, column in _OF_REPOSITORIES.items():
        for event in ("INSERT", "UPDATE", "DELETE"):
            _note(table, event, "OLD" if event == "DELETE" else "NEW", column)
    for table in _OF_EVERYTHING:
        for event in ("INSERT", "UPDATE", "DELETE"):
            _note(table, event)
    for event in ("UPDATE", "DELETE"):  # nobody can have asked for a blob that was not there
        _note("blobs", event)


def _note(table: str, event: str, row: str = "", column: str = "") -> None:
    repository = f'{row}."{column}"' if row else "0"
    op.execute(
        f"""
        CREATE TRIGGER changes_{table}_{event.lower()} AFTER {event} ON {table} BEGIN
            INSERT INTO changes (repository) VALUES ({repository});
            DELETE FROM changes WHERE number <= last_insert_rowid() - {_KEPT};
        END"""
    )
