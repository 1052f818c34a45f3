"""What is told of an exchange when it is over: the access record and the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.edge.context import EdgeContext
    from gateway.edge.exchange import Exchange

# The order of a record's fields; an end reason follows where there is one.
RECORD_FIELDS = (
    "timestamp", "level", "message", "request_id", "correlation_id", "trace_id", "client_ip",
    "user_id", "tenant", "method", "path", "query", "route", "service", "endpoint", "status",
    "error_code", "duration_ms", "upstream_ms", "bytes_in", "bytes_out", "attempts", "user_agent",
    "ai_agent",
)  # fmt: skip
# A record is a copy of this, filled: a literal of so many members costs twice as much (Python 3.11
# makes two dicts of it and puts them together).
_NOTHING_KNOWN: Final[dict[str, object]] = dict.fromkeys(RECORD_FIELDS)
_OPERATION = "{operation_id}"
_MOST_ID = 128  # as the request log keeps; ids have 53
UNROUTED = "none"  # the service label of what reached no service


def write_record(exchange: Exchange) -> None:
    """Count the exchange and write its record, when it is over."""
    observe(exchange)
    context, trace = exchange.context, exchange.trace
    if trace is None and not wanted(context):
        return
    record = record_of(exchange)
    keep(context, record)
    if trace is not None and context.tracer is not None:
        context.tracer.finished(
            trace,
            record,
            started_wall=exchange.started_wall,
            scheme=exchange.client.peer.scheme,
            upstream_path=exchange.path.decode("latin-1") if exchange.sent_at else None,
        )


def wanted(context: EdgeContext) -> bool:
    """Whether anyone keeps records."""
    return context.access.enabled or context.kept is not None


def keep(context: EdgeContext, record: dict[str, object]) -> None:
    """Hand a record to whoever keeps them: the access log, the request log."""
    if context.access.enabled:
        context.access.write(record)
    if context.kept is not None:
        context.kept(record)


def observe(exchange: Exchange) -> None:
    """Count the exchange in the figures."""
    context, head = exchange.context, exchange.head
    now = exchange.answered_at or context.clock()
    upstream_seconds = now - exchange.sent_at if exchange.sent_at else None
    service = exchange.service
    if service is not None:
        metrics = service.metrics
        metrics.in_flight -= 1
    else:
        metrics = context.metrics.service(UNROUTED)
    method = head.method.decode("latin-1")
    seconds = now - exchange.started
    metrics.observe(exchange.route, method, exchange.status, seconds, upstream_seconds)
    if exchange.agent is not None:
        context.metrics.ai_agent(exchange.agent)
    if exchange.error_code is not None:
        context.metrics.error(metrics.name, exchange.error_code)


def record_of(exchange: Exchange) -> dict[str, object]:
    """The access record. Durations in milliseconds; sizes are of bodies, in bytes."""
    context, head = exchange.context, exchange.head
    now = exchange.answered_at or context.clock()
    seconds = now - exchange.started
    upstream_seconds = now - exchange.sent_at if exchange.sent_at else None
    status, service, identity = exchange.status, exchange.service, exchange.identity
    record = _NOTHING_KNOWN.copy()
    record["timestamp"] = context.timestamps.at(exchange.started_wall + seconds)
    record["level"] = "error" if status >= 500 else "info"
    record["message"] = "request"
    record["request_id"] = exchange.request_id
    record["correlation_id"] = exchange.correlation_id
    record["trace_id"] = exchange.traceparent[3:35].decode("ascii")
    record["client_ip"] = exchange.client_address
    if identity is not None:
        record["user_id"] = identity.subject or None
        record["tenant"] = identity.tenant
    record["method"] = head.method.decode("latin-1")
    record["path"] = _path(head.target)
    record["query"] = _shown_query(exchange) if exchange.query else ""
    record["route"] = exchange.route
    if service is not None:
        record["service"] = service.name
    record["endpoint"] = exchange.endpoint_name
    record["status"] = status
    record["error_code"] = exchange.error_code
    # Thousandths by whole numbers: `round(x, 3)` costs 0.4 µs, twice a request.
    record["duration_ms"] = int(seconds * 1000000) / 1000
    if upstream_seconds is not None:
        record["upstream_ms"] = int(upstream_seconds * 1000000) / 1000
    record["bytes_in"] = exchange.bytes_in
    record["bytes_out"] = exchange.bytes_out
    record["attempts"] = exchange.attempts
    record["user_agent"] = head.user_agent.decode("latin-1")
    if exchange.agent is not None:
        record["ai_agent"] = context.agents.name_of(head)
    job = head.job
    if job is None and exchange.policy is None:
        job = _job_of(exchange)
    if job is not None:
        record["operation_id"] = job
    if exchange.end_reason is not None:
        record["end_reason"] = exchange.end_reason
    return record


def _job_of(exchange: Exchange) -> str | None:
    """The job whose path it is."""
    if _OPERATION not in exchange.route:
        return None
    place = exchange.route.split("/").index(_OPERATION)
    return exchange.path.split(b"/")[place][:_MOST_ID].decode("latin-1")


def _path(target: bytes) -> str:
    """What is told of a target: its path. In a query, a fragment, or before an `@` there may be a
    secret.
    """
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/") and b"://" in path:
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return path.decode("latin-1")


def _shown_query(exchange: Exchange) -> str:
    """Of the query what the route allows; anything else may be a secret."""
    route = exchange.policy
    if route is None or not route.query_keys:
        return ""
    pairs = exchange.query[1:].split(b"&")
    shown = [pair for pair in pairs if pair.partition(b"=")[0] in route.query_keys]
    return b"&".join(shown).decode("latin-1")
