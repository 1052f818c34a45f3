"""What jobs hold that is too large for their histories."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "job_payloads",
        sa.Column("payload_id", sa.String(64), primary_key=True),
        sa.Column("namespace", sa.String(128), nullable=False),
        sa.Column("operation_id", sa.String(256), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("kept_ms", sa.BigInteger, nullable=False),
        sa.Column("look_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("job_payloads_look", "job_payloads", ["namespace", "look_ms"])
    op.create_index("job_payloads_job", "job_payloads", ["namespace", "operation_id"])


def downgrade() -> None:
    """Drop it, with what it holds."""
    op.drop_table("job_payloads")
