"""The callback of a decided question: a signed POST to the URL that its asker gave."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.callbacks.address import AddressRefused, Allowed, target
from gateway.callbacks.roles import Hopeless
from gateway.callbacks.sending import NotSent, Outgoing
from gateway.callbacks.signature import signed_fields
from gateway.store.deliveries import Delivery


class CallbackRequests:
    """Makes the request of a delivery. `keys` sign it, newest first."""

    def __init__(self, keys: Sequence[bytes], allowed: Allowed) -> None:
        self._keys = tuple(keys)
        self._allowed = allowed

    def __repr__(self) -> str:
        return f"<CallbackRequests keys={len(self._keys)} {self._allowed!r}>"

    def destination(self, delivery: Delivery) -> str:
        """Host and port of the URL."""
        try:
            return target(delivery.target).destination
        except AddressRefused:
            return "nowhere"

    def request(self, delivery: Delivery, wall_seconds: float) -> Outgoing:
        """The request of one attempt: the row's own bytes, signed for this time. Raises NotSent
        when there is no key to sign with (one may be set again), Hopeless when the URL is none.
        """
        if not self._keys:
            raise NotSent("callbacks are switched off", "WEBHOOK_SECRET is not set")
        try:
            url = target(delivery.target).url
        except AddressRefused as refused:
            raise Hopeless(f"the URL {refused}") from None
        headers = signed_fields(self._keys, f"msg_{delivery.id}", wall_seconds, delivery.payload)
        headers["Content-Type"] = "application/json"
        return Outgoing("POST", url, headers, delivery.payload, self._allowed)
