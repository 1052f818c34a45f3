"""Questions, their answers and audit trail, and what is to be sent about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _questions()
    _clients_and_approvers()
    _answers()
    _audit()
    _outbox()


def downgrade() -> None:
    """Drop them, with what they hold."""
    for name in (
        "outbox",
        "question_audit",
        "answer_keys",
        "question_votes",
        "question_approvers",
        "question_clients",
        "questions",
    ):
        op.drop_table(name)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _partial(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    condition = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition
    )


def _questions() -> None:
    op.create_table(
        "questions",
        sa.Column("question_id", sa.Text, primary_key=True),
        _big("ordinal"),
        _text("asked_by", nullable=True),
        sa.Column("restricted", sa.Boolean, nullable=False),
        sa.Column("forbid_self", sa.Boolean, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _text("document"),
        _big("expires_ms"),
        _big("remind_ms", nullable=True),
        _text("status"),
        sa.Column("voted", sa.Integer, nullable=False),
        _text("answer", nullable=True),
        _big("ended_ms", nullable=True),
        _text("ended_by", nullable=True),
        _text("decision", nullable=True),
    )
    op.create_index("questions_listed", "questions", ["status", "ordinal", "question_id"])
    op.create_index("questions_asked_by", "questions", ["asked_by", "ordinal"])
    _partial("questions_expiring", "questions", ["expires_ms"], "ended_ms IS NULL")
    _partial("questions_reminded", "questions", ["remind_ms"], "remind_ms IS NOT NULL")
    _partial("questions_ended", "questions", ["ended_ms"], "ended_ms IS NOT NULL")


def _clients_and_approvers() -> None:
    op.create_table(
        "question_clients",
        _text("client_id"),
        _text("question_id"),
        _big("ordinal"),
        sa.Column("open", sa.Boolean, nullable=False),
        _text("position", nullable=True),
        _text("pending", nullable=True),
        _big("pending_ms", nullable=True),
        sa.PrimaryKeyConstraint("client_id", "question_id", name="question_clients_pkey"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "question_clients_open",
        "question_clients",
        ["client_id", "ordinal"],
        sqlite_where=sa.text("open IS 1"),
        postgresql_where=sa.text("open IS true"),
    )
    _partial(
        "question_clients_pending", "question_clients", ["pending_ms"], "pending_ms IS NOT NULL"
    )
    op.create_table(
        "question_approvers",
        _text("approver"),
        _text("question_id"),
        sa.PrimaryKeyConstraint("approver", "question_id", name="question_approvers_pkey"),
        sqlite_with_rowid=False,
    )


def _answers() -> None:
    op.create_table(
        "question_votes",
        _text("question_id"),
        _text("voter"),
        _text("who"),
        _text("seat"),
        _big("at_ms"),
        sa.Column("number", sa.Integer, nullable=False),
        _text("response"),
        _text("comment", nullable=True),
        sa.PrimaryKeyConstraint("question_id", "voter", name="question_votes_pkey"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "answer_keys",
        _text("question_id"),
        _text("caller"),
        _text("key"),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("question_id", "caller", "key", name="answer_keys_pkey"),
        sqlite_with_rowid=False,
    )


def _audit() -> None:
    op.create_table(
        "question_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _text("question_id"),
        _big("at_ms"),
        _text("what"),
        _text("who"),
        _text("detail", nullable=True),
    )
    op.create_index("question_audit_of", "question_audit", ["question_id"])
    _partial(
        "question_audit_once",
        "question_audit",
        ["question_id", "what", "who"],
        "what IN ('delivered', 'refused', 'seen')",
        unique=True,
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text, primary_key=True),
        _text("question_id"),
        _text("kind"),
        _text("target"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        _big("created_ms"),
        _big("next_ms"),
        _big("leased_until_ms"),
        _big("done_ms", nullable=True),
        _text("last_error", nullable=True),
    )
    _partial("outbox_due", "outbox", ["next_ms"], "done_ms IS NULL")
    op.create_index("outbox_of", "outbox", ["question_id"])
