"""The tables of the store, as code sees them; `migrations/` makes them, and a test compares both.

Times are Unix milliseconds, `ordinal` is microseconds. JSON is text: PostgreSQL's own JSON types
refuse the escape of NUL, which an answer may hold. There are no foreign keys: a question's rows are
written together and purged together, and each check would cost on the path of every answer.
Texts that come from outside without another bound have one here, and are cut or refused before.

Partial indexes keep what is asked for once a second as small as what is open.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    literal_column,
    true,
)

metadata = MetaData()

questions = Table(
    "questions",
    metadata,
    Column("question_id", Text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),  # when it was asked, and the order of lists
    Column("asked_by", Text),  # null: without a credential
    Column("restricted", Boolean, nullable=False),  # it has approvers
    Column("forbid_self", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # of what the asker sent
    Column("document", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("remind_ms", BigInteger),  # the next reminder
    Column("status", Text, nullable=False),
    Column("voted", Integer, nullable=False),
    Column("answer", Text),
    Column("ended_ms", BigInteger),
    Column("ended_by", Text),
    Column("decision", Text),  # which write ended it or added the last vote
)
# Written out, not bound: a planner can't know that a partial index fits a parameter.
is_open = questions.c.status == literal_column("'open'")
# The same, for what looks by expiry: with `is_open` SQLite would take the index of lists instead,
# and go through all that is open.
is_running = questions.c.ended_ms.is_(None)
_reminded = questions.c.remind_ms.is_not(None)
_ended = questions.c.ended_ms.is_not(None)
Index("questions_listed", questions.c.status, questions.c.ordinal, questions.c.question_id)
Index("questions_asked_by", questions.c.asked_by, questions.c.ordinal)
Index("questions_expiring", questions.c.expires_ms, sqlite_where=is_running,
      postgresql_where=is_running)  # fmt: skip
Index("questions_reminded", questions.c.remind_ms, sqlite_where=_reminded,
      postgresql_where=_reminded)  # fmt: skip
Index("questions_ended", questions.c.ended_ms, sqlite_where=_ended, postgresql_where=_ended)

# Whom a question is shown to, and what of that still has to be published.
shown = Table(
    "question_clients",
    metadata,
    Column("client_id", Text, nullable=False),
    Column("question_id", Text, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("position", Text),  # the event's id
    Column("pending", Text),  # the kind of event to publish
    Column("pending_ms", BigInteger),  # when whoever is up to it may be taken for dead
    PrimaryKeyConstraint("client_id", "question_id", name="question_clients_pkey"),
    sqlite_with_rowid=False,
)
is_shown = shown.c.open.is_(true())
_pending = shown.c.pending_ms.is_not(None)
Index("question_clients_open", shown.c.client_id, shown.c.ordinal, sqlite_where=is_shown,
      postgresql_where=is_shown)  # fmt: skip
Index("question_clients_pending", shown.c.pending_ms, sqlite_where=_pending,
      postgresql_where=_pending)  # fmt: skip

approvers = Table(
    "question_approvers",
    metadata,
    Column("approver", Text, nullable=False),
    Column("question_id", Text, nullable=False),
    PrimaryKeyConstraint("approver", "question_id", name="question_approvers_pkey"),
    sqlite_with_rowid=False,
)

# Where several answers are needed; a single one is in the question's row.
votes = Table(
    "question_votes",
    metadata,
    Column("question_id", Text, nullable=False),
    Column("voter", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("seat", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("response", Text, nullable=False),
    Column("comment", Text),
    PrimaryKeyConstraint("question_id", "voter", name="question_votes_pkey"),
    sqlite_with_rowid=False,
)

answer_keys = Table(
    "answer_keys",
    metadata,
    Column("question_id", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("question_id", "caller", "key", name="answer_keys_pkey"),
    sqlite_with_rowid=False,
)

audit = Table(
    "question_audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("question_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("what", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("detail", Text),
)
_once = audit.c.what.in_(("delivered", "refused", "seen"))
Index("question_audit_of", audit.c.question_id)
Index("question_audit_once", audit.c.question_id, audit.c.what, audit.c.who, unique=True,
      sqlite_where=_once, postgresql_where=_once)  # fmt: skip

# Callbacks and forwards of decisions: written with the decision, sent by `callbacks`.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("question_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("next_ms", BigInteger, nullable=False),
    Column("leased_until_ms", BigInteger, nullable=False),
    Column("done_ms", BigInteger),
    Column("last_error", Text),
)
_waiting = outbox.c.done_ms.is_(None)
Index("outbox_due", outbox.c.next_ms, sqlite_where=_waiting, postgresql_where=_waiting)
Index("outbox_of", outbox.c.question_id)

# What is set through the admin API. `tenant` is empty for a rule of every tenant: null would not be
# equal to itself, and the pair not unique.
limit_configs = Table(
    "rate_limit_configs",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("pattern", String(1024), nullable=False),
    Column("requests_per_minute", Integer),
    Column("requests_per_hour", Integer),
    Column("requests_per_day", Integer),
    Column("updated_ms", BigInteger, nullable=False),
    Column("updated_by", String(256)),  # null: without a credential
)
Index("rate_limit_configs_key", limit_configs.c.tenant, limit_configs.c.pattern, unique=True)

# Tokens that hold no more though they have not expired. `version` is that of `policy_versions`.
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("jti", String(512), primary_key=True),
    Column("expires_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger, nullable=False),
    Column("revoked_by", String(256)),
    Column("version", BigInteger, nullable=False),
)
Index("revoked_tokens_expiring", revoked_tokens.c.expires_ms)
Index("revoked_tokens_version", revoked_tokens.c.version)

# A number for each of the two above that grows with every change, for gateways that ask whether
# there was one.
policy_versions = Table(
    "policy_versions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# One row a request (`REQUEST_LOG=database`): after the first two, fields of the access record. The
# last two are fields that only some records have; `operation_id` is of the job that a request is
# about.
api_requests = Table(
    "api_requests",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True,
           autoincrement=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("duration_ms", Double, nullable=False),
    Column("upstream_ms", Double),
    Column("request_id", String(128), nullable=False),
    Column("correlation_id", String(128)),
    Column("trace_id", String(32)),
    Column("tenant", String(256)),
    Column("user_id", String(256)),
    Column("method", String(32), nullable=False),
    Column("path", String(2048), nullable=False),
    Column("route", String(256)),
    Column("service", String(128)),
    Column("endpoint", String(512)),
    Column("status", Integer, nullable=False),
    Column("error_code", String(64)),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("client_ip", String(64)),
    Column("user_agent", String(512)),
    Column("end_reason", String(256)),
    Column("operation_id", String(256)),
)  # fmt: skip
_of_tenant = api_requests.c.tenant.is_not(None)
_of_user = api_requests.c.user_id.is_not(None)
Index("api_requests_started", api_requests.c.started_ms)
Index("api_requests_tenant", api_requests.c.tenant, api_requests.c.started_ms,
      sqlite_where=_of_tenant, postgresql_where=_of_tenant)  # fmt: skip
Index("api_requests_user", api_requests.c.user_id, api_requests.c.started_ms,
      sqlite_where=_of_user, postgresql_where=_of_user)  # fmt: skip
Index("api_requests_route", api_requests.c.route, api_requests.c.started_ms)

# Encrypted, and the only copy for as long as a history refers to it. `kept_ms` is when it was last
# written, `look_ms` when to look whether its job is still known to Temporal.
job_payloads = Table(
    "job_payloads",
    metadata,
    Column("payload_id", String(64), primary_key=True),
    Column("namespace", String(128), nullable=False),
    Column("operation_id", String(256), nullable=False),  # empty: of no job that is known
    Column("data", LargeBinary, nullable=False),
    Column("kept_ms", BigInteger, nullable=False),
    Column("look_ms", BigInteger, nullable=False),
)
Index("job_payloads_look", job_payloads.c.namespace, job_payloads.c.look_ms)
Index("job_payloads_job", job_payloads.c.namespace, job_payloads.c.operation_id)
