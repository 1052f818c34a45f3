"""What a namespace of Temporal must have for jobs: the search attributes that lists of jobs go by,
and a retention that keeps what is over for a day.

A server of one's own takes search attributes from any client; where that is not permitted (Temporal
Cloud, a server with authorisation) its operator makes them, and is told which.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs.types import DAY, OWNER_ATTRIBUTE, STATE_ATTRIBUTE

WANTED: Final = (OWNER_ATTRIBUTE, STATE_ATTRIBUTE)
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
_AWAY: Final = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
)


class NoNamespaceError(Exception):
    """There is no namespace of that name; the text says so."""


async def prepare(client: Client, log: Any) -> bool:
    """Make search attributes known that are not; whether all are. Says what an operator has to do.

    Raises NoNamespaceError, and RPCError when Temporal is away.
    """
    await _look_at_retention(client, log)
    return await _make_attributes(client, log)


async def known_attributes(client: Client, timeout: timedelta | None = None) -> Mapping[str, int]:
    """The search attributes of the client's namespace, each with its kind. Raises RPCError."""
    request = ListSearchAttributesRequest(namespace=client.namespace)
    listed = await client.operator_service.list_search_attributes(request, timeout=timeout)
    return listed.custom_attributes


async def _look_at_retention(client: Client, log: Any) -> None:
    asked = DescribeNamespaceRequest(namespace=client.namespace)
    try:
        described = await client.workflow_service.describe_namespace(asked)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise NoNamespaceError(f"there is no namespace {client.namespace}") from None
        if error.status in _AWAY:
            raise
        return  # not permitted: nothing can be said about it
    kept = described.config.workflow_execution_retention_ttl.ToTimedelta().total_seconds()
    if kept < DAY:
        # An Idempotency-Key is known for as long as the job that it started.
        log.warning("namespace.retention", seconds=kept, expected=DAY, namespace=client.namespace)


async def _make_attributes(client: Client, log: Any) -> bool:
    namespace = client.namespace
    try:
        known = await known_attributes(client)
        missing = [name for name in WANTED if name not in known]
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=namespace, search_attributes=dict.fromkeys(missing, _KEYWORD)
                )
            )
            log.info("namespace.search_attributes", made=missing, namespace=namespace)
    except RPCError as error:
        if error.status in _AWAY:
            raise
        if error.status == RPCStatusCode.ALREADY_EXISTS:  # another worker came first
            return True
        log.warning("namespace.search_attributes", needed=WANTED, kind="Keyword",
                    namespace=namespace, reason=error.status.name)  # fmt: skip
        return False
    wrong = [name for name in WANTED if known.get(name, _KEYWORD) != _KEYWORD]
    if wrong:
        log.error("namespace.search_attributes", kind="Keyword", other_kind=wrong)
    return not wrong
