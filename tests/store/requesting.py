"""What tests of the request log have in common: a record, a log that writes at once, its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, select

from gateway.edge.record import RECORD_FIELDS
from gateway.store import Database, RequestLog
from gateway.store.tables import api_requests
from tests.asking import Clock
from tests.connection import eventually

RECORD: dict[str, object] = dict.fromkeys(RECORD_FIELDS) | {
    "timestamp": "2026-01-01T00:00:00.250Z",
    "level": "info",
    "message": "request",
    "request_id": "r-1",
    "correlation_id": "c-1",
    "trace_id": "0123456789abcdef0123456789abcdef",
    "client_ip": "203.0.113.7",
    "user_id": "alice",
    "tenant": "acme",
    "method": "POST",
    "path": "/api/v1/orders/7",
    "query": "",
    "route": "/api/v1/{service}",
    "service": "orders",
    "endpoint": "http://127.0.0.1:9000",
    "status": 502,
    "error_code": "PROXY_ERROR",
    "duration_ms": 250.125,
    "upstream_ms": 249.5,
    "bytes_in": 12,
    "bytes_out": 345,
    "attempts": 2,
    "user_agent": "curl/8",
}


def record(number: int = 0, **fields: object) -> dict[str, object]:
    return RECORD | {"request_id": f"r-{number}"} | fields


async def rows(database: Database) -> list[dict[str, Any]]:
    def work(connection: Connection) -> list[dict[str, Any]]:
        found = connection.execute(select(api_requests).order_by(api_requests.c.id))
        return [dict(row._mapping) for row in found]

    return await database.read(work)


async def ids(database: Database) -> list[str]:
    return [row["request_id"] for row in await rows(database)]


@asynccontextmanager
async def logging(database: Database, **options: Any) -> AsyncIterator[RequestLog]:
    """A log that writes at once."""
    usual: dict[str, Any] = {"flush_seconds": 0.001, "close_seconds": 30.0, "wall": Clock()}
    log = RequestLog(database, **(usual | options))
    log.start()
    try:
        yield log
    finally:
        await log.close()


async def written(log: RequestLog, count: int) -> None:
    """Returns when so many rows are written."""
    await eventually(lambda: log.written >= count, seconds=60)
