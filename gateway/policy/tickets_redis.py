"""Tickets in Redis, for several gateways or workers: issued at any of them, redeemed at any other.

Redis ends them after their 30 s, and GETDEL (Redis 6.2) gives each to one caller only. Under what
they are kept is a hash: who reads the database holds no ticket. What a ticket is, is in tickets.
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.policy.identity import Identity
from gateway.policy.revocations import Revocations
from gateway.policy.tickets import TICKET_SECONDS, TicketsAwayError, new_ticket, ticket_key

# A browser waits for it; a Redis that takes longer is as good as away.
REDIS_TIMEOUT_SECONDS: Final = 2.0
_PREFIX: Final = b"gateway:ticket:"


class RedisTickets:
    """As `Tickets`, but asynchronous, and Redis counts the 30 s. How many there are is bounded by
    their 30 s and by the limit on requests for them.

    `client` must give bytes (no `decode_responses`). Raises TicketsAwayError while Redis can't be
    reached.
    """

    __slots__ = ("_client", "_revocations", "_timeout_seconds")

    def __init__(
        self,
        client: Redis,
        timeout_seconds: float = REDIS_TIMEOUT_SECONDS,
        revocations: Revocations | None = None,
    ) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._revocations = revocations if revocations is not None else Revocations()

    def __repr__(self) -> str:
        return "<RedisTickets>"

    async def issue(self, identity: Identity, client_id: str, wall: float) -> str:
        """A new ticket with the rights of `identity`, for the streams of `client_id` only."""
        ticket = new_ticket()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._client.set(
                    _key(ticket, client_id), identity.encode(), ex=TICKET_SECONDS
                )
        except (RedisError, OSError, TimeoutError):
            raise TicketsAwayError from None
        return ticket

    async def redeem(self, ticket: str, client_id: str, wall: float) -> Identity | None:
        """Whose ticket it is, once; None when it is used, too old, another client id's or none, or
        when its owner's token has ended or was revoked.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                kept = await self._client.getdel(_key(ticket, client_id))
        except (RedisError, OSError, TimeoutError):
            raise TicketsAwayError from None
        if kept is None:
            return None
        identity = Identity.decode(kept)
        ended = identity.has_ended(wall) or self._revocations.is_revoked(identity.jti)
        return None if ended else identity


def _key(ticket: str, client_id: str) -> bytes:
    return _PREFIX + ticket_key(ticket, client_id).hex().encode("ascii")
