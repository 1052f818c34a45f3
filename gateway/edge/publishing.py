"""Publishing at the door: a POST of events becomes frames in the hub, without leaving callbacks.

What has to wait (questions, which are kept first; keys and histories in Redis) runs as one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from gateway.edge.answer import JSON, NO_STORE, answer
from gateway.edge.headers import Field
from gateway.edge.streaming import bad_client_id, client_id_of
from gateway.errors import Rejection
from gateway.policy.auth import Identity, forbidden, unauthorized
from sse.event import BackplaneAwayError, NewEvent, Published, Refused, is_job_stream
from sse.idempotency import IdempotencyKeys, Stored, body_digest, publishing_scope, read_key
from sse.publication import MAX_BODY_BYTES, read

if TYPE_CHECKING:
    from gateway.edge.events import EventsDoor
    from gateway.edge.exchange import Exchange

_FIELDS: tuple[Field, ...] = (JSON, NO_STORE)
_AWAY = "what the gateways share is away: nothing was published, repeat it"
_RETRY_SECONDS = 2
_RETRIED = frozenset(("SERVICE_UNAVAILABLE", "TIMEOUT", "OVERLOADED"))


def rejection_of(refused: Refused) -> Rejection:
    """A refusal of the event room in the words of the error table."""
    retry = _RETRY_SECONDS if refused.code in _RETRIED else None
    extra = tuple(refused.extra.items())
    return Rejection(refused.code, refused.message, retry, details=refused.details, extra=extra)


class Publication:
    """A POST of the events path."""

    __slots__ = ("_client_id", "_door", "_exchange", "_key", "_listed", "_pieces", "_size")

    def __init__(self, door: EventsDoor, exchange: Exchange) -> None:
        self._door = door
        self._exchange = exchange
        self._pieces: list[bytes] = []
        self._size = 0
        self._client_id = ""
        self._listed = False
        self._key: tuple[str, str] | None = None  # whose it is and for what, and the key itself

    def receive(self, pieces: Sequence[bytes], complete: bool) -> None:
        """Collect the body; with its end the events go out."""
        exchange = self._exchange
        if not self._client_id:
            refusal = self._check()
            if refusal is not None:
                exchange.reject(refusal)
                return
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if max(self._size, exchange.head.content_length or 0) > MAX_BODY_BYTES:
            message = f"a publication has at most {MAX_BODY_BYTES} bytes; split it"
            exchange.reject(Rejection("PAYLOAD_TOO_LARGE", message, close=True))
        elif complete:
            try:
                self._go(b"".join(self._pieces))
            except Refused as refused:
                exchange.reject(rejection_of(refused))

    def _check(self) -> Rejection | None:
        """Whether this caller may publish to this client id."""
        exchange = self._exchange
        client_id = client_id_of(exchange.path)
        if client_id is None:
            return bad_client_id()
        self._client_id = client_id
        identity = exchange.identity
        authenticator = exchange.context.authenticator
        if identity is None or authenticator is None:
            return unauthorized()
        if not identity.may("events:write", "internal"):
            if identity.subject is None:
                return authenticator.write_refusal()
            return forbidden("this credential may not publish", "events:write")
        return None

    def _go(self, body: bytes) -> None:
        exchange, door = self._exchange, self._door
        identity = exchange.identity or Identity()
        given = exchange.head.by_name.get(b"idempotency-key")
        internal = identity.may("internal")
        events = read(body, internal=internal)
        if is_job_stream(self._client_id) and not internal:
            raise Refused("FORBIDDEN", "What happens in a job is told by its workers alone.")
        asks = any(event.event_type == "question" for event in events)
        digest = b"" if given is None else body_digest(body)
        self._listed = body.lstrip().startswith(b"[")
        if given is not None:
            subject = identity.subject or None
            scope = publishing_scope(self._client_id, subject, exchange.client_address)
            if len(given) > 1:
                raise Refused("BAD_REQUEST", "send one Idempotency-Key")
            self._key = (scope, read_key(given[0]))
            if not isinstance(door.keys, IdempotencyKeys):
                door.wait_for(self._publish_slowly(identity, events, digest), self._give_up)
                return
            stored = door.keys.begin(*self._key, digest, exchange.started_wall)
            if stored is not None:
                self._repeat(stored)
                return
        if asks and door.asking is not None:
            door.wait_for(self._publish_slowly(identity, events, digest), self._give_up)
        elif door.shared is not None:
            door.shared.publish(self._client_id, events).add_done_callback(self._shared)
        elif len(events) > 1:
            door.hub.in_turn(self._client_id, lambda: self._publish_here(events))
        else:
            self._publish_here(events)

    def _publish_here(self, events: Sequence[NewEvent]) -> None:
        """Without other gateways: at once, also when the publisher has left meanwhile."""
        try:
            self._answer(self._door.hub.publish(self._client_id, events))
        except Exception:
            self._give_up()
            raise

    def _shared(self, done: asyncio.Future[Published]) -> None:
        if done.cancelled() or isinstance(done.exception(), BackplaneAwayError):
            self._fail(Rejection("SERVICE_UNAVAILABLE", _AWAY, _RETRY_SECONDS))
            return
        try:
            self._answer(done.result())
        except Exception:
            self._give_up()
            raise  # to the loop's handler, which logs it

    def _give_up(self) -> None:
        """A mistake of ours ended the work; it is logged."""
        self._fail(Rejection("INTERNAL_ERROR", "the gateway failed; it is logged"))

    async def _publish_slowly(
        self, identity: Identity, events: Sequence[NewEvent], digest: bytes
    ) -> None:
        """What has to wait for Redis or the store."""
        exchange, door = self._exchange, self._door
        if self._key is not None and not isinstance(door.keys, IdempotencyKeys):
            # Refused here it is another attempt's key: that one keeps its claim.
            try:
                stored = await door.keys.begin(*self._key, digest, exchange.started_wall)
            except Refused as refused:
                exchange.reject(rejection_of(refused))
                return
            except BackplaneAwayError:
                exchange.reject(Rejection("SERVICE_UNAVAILABLE", _AWAY, _RETRY_SECONDS))
                return
            if stored is not None:
                self._repeat(stored)
                return
        try:
            if any(event.event_type == "question" for event in events) and door.asking is not None:
                published = await door.asking.publish_list(
                    identity, self._client_id, events, listed=self._listed
                )
            elif door.shared is not None:
                name = "" if self._key is None else " ".join(self._key)
                published = await door.shared.publish(self._client_id, events, name)
            else:
                published = door.hub.publish(self._client_id, events)
        except Refused as refused:
            self._fail(rejection_of(refused))
        except BackplaneAwayError:
            self._fail(Rejection("SERVICE_UNAVAILABLE", _AWAY, _RETRY_SECONDS))
        else:
            self._answer(published)

    # Answers

    def _answer(self, published: Published) -> None:
        body = orjson.dumps({"ids": published.ids, "subscribers": published.subscribers})
        if self._key is not None:
            keys = self._door.keys
            now = self._exchange.context.wall()
            if isinstance(keys, IdempotencyKeys):
                keys.finish(*self._key, body, now)
            else:
                self._door.wait_for(keys.finish(*self._key, body, now))
        if not self._exchange.finished:
            answer(self._exchange, 202, [*_FIELDS], body)

    def _repeat(self, stored: Stored) -> None:
        if not self._exchange.finished:
            fields = [*_FIELDS, (b"Idempotent-Replayed", b"true")]
            answer(self._exchange, 202, fields, stored.answer)

    def _fail(self, rejection: Rejection) -> None:
        """Nothing was published: the key is free again."""
        if self._key is not None:
            keys = self._door.keys
            if isinstance(keys, IdempotencyKeys):
                keys.forget(*self._key)
            else:
                self._door.wait_for(keys.forget(*self._key))
        self._exchange.reject(rejection)
