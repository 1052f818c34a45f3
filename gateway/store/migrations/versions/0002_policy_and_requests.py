"""Limits that are set at run time, revoked tokens, the number of their changes; the request log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _limit_configs()
    _revoked_tokens()
    op.create_table(
        "policy_versions",
        sa.Column("name", sa.String(64), primary_key=True),
        _big("version"),
        sqlite_with_rowid=False,
    )
    _api_requests()


def downgrade() -> None:
    """Drop them, with what they hold."""
    for name in ("api_requests", "policy_versions", "revoked_tokens", "rate_limit_configs"):
        op.drop_table(name)


def _text(name: str, length: int, *, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _limit_configs() -> None:
    op.create_table(
        "rate_limit_configs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _text("tenant", 256, nullable=False),
        _text("pattern", 1024, nullable=False),
        _number("requests_per_minute", nullable=True),
        _number("requests_per_hour", nullable=True),
        _number("requests_per_day", nullable=True),
        _big("updated_ms"),
        _text("updated_by", 256),
    )
    op.create_index(
        "rate_limit_configs_key", "rate_limit_configs", ["tenant", "pattern"], unique=True
    )


def _revoked_tokens() -> None:
    op.create_table(
        "revoked_tokens",
        sa.Column("jti", sa.String(512), primary_key=True),
        _big("expires_ms"),
        _big("revoked_ms"),
        _text("revoked_by", 256),
        _big("version"),
    )
    op.create_index("revoked_tokens_expiring", "revoked_tokens", ["expires_ms"])
    op.create_index("revoked_tokens_version", "revoked_tokens", ["version"])


def _api_requests() -> None:
    op.create_table(
        "api_requests",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        _big("started_ms"),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("upstream_ms", sa.Double),
        _text("request_id", 128, nullable=False),
        _text("correlation_id", 128),
        _text("trace_id", 32),
        _text("tenant", 256),
        _text("user_id", 256),
        _text("method", 32, nullable=False),
        _text("path", 2048, nullable=False),
        _text("route", 256),
        _text("service", 128),
        _text("endpoint", 512),
        _number("status"),
        _text("error_code", 64),
        _big("bytes_in"),
        _big("bytes_out"),
        _number("attempts"),
        _text("client_ip", 64),
        _text("user_agent", 512),
        _text("end_reason", 256),
        _text("operation_id", 256),
    )
    op.create_index("api_requests_started", "api_requests", ["started_ms"])
    for column, name in (("tenant", "tenant"), ("user_id", "user")):
        known = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"api_requests_{name}",
            "api_requests",
            [column, "started_ms"],
            sqlite_where=known,
            postgresql_where=known,
        )
    op.create_index("api_requests_route", "api_requests", ["route", "started_ms"])
