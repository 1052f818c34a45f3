"""Delivery over HTTP: callbacks, and answers that are forwarded to a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.callbacks.delivering import SWEEP_SECONDS, Delivering, Outcome
from gateway.callbacks.retries import next_try, retry_after
from gateway.callbacks.roles import Hopeless, Requests
from gateway.callbacks.sending import Answer, NotSent, Sender
from gateway.store.deliveries import CALLBACK, FORWARD, Delivery, Outbox

_GONE = 410
_BUSY = frozenset((429, 503))  # where Retry-After is meant for


class DeliveryWorker(Delivering):
    """Sends requests until it is closed. `requests` has the maker of requests for each kind; it may
    be replaced at any time, and the next attempt is made by the new one.

    `wall` is Unix time, `random` draws from [0, 1).
    """

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        requests: Mapping[str, Requests],
        *,
        wall: Callable[[], float],
        random: Callable[[], float],
        log: Any,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        super().__init__(
            outbox, (CALLBACK, FORWARD), wall=wall, log=log, sweep_seconds=sweep_seconds
        )
        self.requests = requests
        self._sender = sender
        self._random = random

    def _destination(self, delivery: Delivery) -> str:
        maker = self.requests.get(delivery.kind)
        return delivery.kind if maker is None else maker.destination(delivery)

    def _next_try(self, delivery: Delivery, failed: int, patience: float | None) -> float | None:
        return next_try(delivery.created_at, failed, self._wall(), self._random(), patience)

    async def _attempt(self, delivery: Delivery, log: Any) -> Outcome:
        try:
            maker = self.requests.get(delivery.kind)
            if maker is None:
                raise NotSent("not configured any more")
            answer = await self._sender.send(maker.request(delivery, self._wall()))
        except Hopeless as hopeless:
            return Outcome(error=str(hopeless), final=True)
        except NotSent as failure:
            return Outcome(error=str(failure), detail=failure.detail)
        except Exception:
            # A mistake of ours must not leave the row to be leased each minute for ever.
            log.exception("delivery.bug")
            return Outcome(error="internal error")
        return self._judged(answer)

    def _judged(self, answer: Answer) -> Outcome:
        if 200 <= answer.status < 300:
            return Outcome(answer.status)
        patience = None
        if answer.status in _BUSY:
            patience = retry_after(answer.retry_after, self._wall())
        return Outcome(
            answer.status,
            f"answered {answer.status}",
            final=answer.status == _GONE,
            retry_after_seconds=patience,
        )
