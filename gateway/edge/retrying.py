"""Further tries of a request whose route asks for them: retries after a failure, and hedging, a
second try beside one that is slow. Made for such requests only; the others have one try. Not here:
the replay of a request that met a stale connection (attempts.py), which needs no route's leave.

Rules (facts, "Connections and retries"): never once a byte went to the client; only with all of the
body so far at hand; what is not idempotent only while nothing of it has left (RFC 9110 §9.2.2), or
where the route says so; another endpoint rather than the same; within the service's budget.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from gateway.edge.attempts import REPLAY_BYTES, Attempt, Cause
from gateway.edge.deadlines import Handle
from gateway.errors import Rejection
from gateway.policy.breaker import CLOSED
from gateway.routing.services import Endpoint, Service

if TYPE_CHECKING:
    from gateway.edge.exchange import Exchange
    from gateway.edge.message import ResponseHead
    from gateway.routing.routes import Route
    from gateway.settings_routes import RetrySettings

# An upstream's Retry-After is waited for up to here. One that wants more gets it: its answer goes
# to the client, who can wait better than a request that holds a place here.
LONGEST_RETRY_AFTER_SECONDS: Final = 2.0

_BY_STATUS: Final = {502: Cause.BAD_GATEWAY, 503: Cause.UNAVAILABLE, 504: Cause.TIMEOUT}
_STEPS: Final = 1 << 20  # of a wait that is drawn


def backoff_seconds(
    settings: RetrySettings, retries: int, draw: Callable[[int], int] = secrets.randbelow
) -> float:
    """How long to wait after `retries` of them before the next: full jitter, as Envoy's. The first
    is drawn from 0 to `backoff`, each further one from twice that, at most `backoff_max`.
    """
    longest = min(settings.backoff_max, settings.backoff * (1 << min(retries, 30)))
    return longest * draw(_STEPS) / _STEPS


def retry_after_seconds(head: ResponseHead, wall: float) -> float:
    """The Retry-After of an answer (RFC 9110 §10.2.3) at this time (seconds since 1970); 0 without
    one, or with one that can't be read.
    """
    value = next((value for name, value in head.fields if name.lower() == b"retry-after"), b"")
    text = value.strip().decode("latin-1")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall) if text else 0.0
    except (ValueError, OverflowError):
        return 0.0


class Tries:
    """The tries of one request: one at a time, two while it is hedged."""

    __slots__ = (
        "_alarm", "_exchange", "_first", "_hedged", "_lent", "_rejection", "_retries", "_route",
        "_service", "_tried", "running",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, service: Service, route: Route) -> None:
        self._exchange = exchange
        self._service = service
        self._route = route
        self.running: list[Attempt] = []
        self._tried: list[Endpoint] = []
        self._first: Attempt | None = None
        self._retries = 0
        self._hedged = False
        self._lent = 0  # by the budget, to tries that have not ended
        self._alarm: Handle | None = None  # while one runs: the time to hedge; else of a back-off
        self._rejection: Rejection | None = None  # what the client is told if no try can follow

    def __repr__(self) -> str:
        return f"<Tries running={self.running} tried={len(self._tried)} lent={self._lent}>"

    def begin(self, attempt: Attempt) -> None:
        """Let a try begin."""
        exchange = self._exchange
        again = attempt.endpoint in self._tried
        if self._first is None:
            self._first = attempt
        else:
            exchange.context.metrics.retry(self._service.name)
        self.running.append(attempt)
        self._tried.append(attempt.endpoint)
        if exchange.request_complete:
            self.request_complete()
        attempt.pool.acquire(attempt, fresh=again)

    def request_complete(self) -> None:
        """The client has sent all of the request: from here on the time is the upstream's."""
        retries, after, exchange = self._route.retries, self._route.hedge_after, self._exchange
        if retries is not None and retries.try_timeout is not None:
            for attempt in self.running:
                attempt.limit(retries.try_timeout)
        if after is None or self._hedged or self._alarm is not None:
            return
        if self._may_double() and len(self._service.endpoints) > 1:
            self._alarm = exchange.context.deadlines.alarm(self, after)

    def won(self, attempt: Attempt) -> None:
        """An answer begins: the other try, where there is one, is dropped uncounted."""
        self._silence()
        attempt.unlimit()
        running, self.running = self.running, []
        for other in running:
            if other is not attempt:
                other.drop(self._exchange.context.clock(), failed=None)

    def over(self, attempt: Attempt, cause: Cause, rejection: Rejection) -> bool:
        """A try came to nothing, and is dropped already. True: another is under way, or follows."""
        self._ended(attempt)
        if self.running:
            self._exchange.attempt = self.running[0]
            return True
        if not self._may_retry(attempt, cause, 0.0):
            return False
        self._wait(rejection, 0.0)
        return True

    def refuses(self, attempt: Attempt, head: ResponseHead) -> bool:
        """Whether an answer is not passed on but another waited for; its try is over then."""
        cause = _BY_STATUS.get(head.status)
        retries = self._route.retries
        if cause is None or retries is None or cause.value not in retries.on:
            return False
        exchange = self._exchange
        wait = retry_after_seconds(head, exchange.context.wall())
        self._ended(attempt)
        if not self.running and not self._may_retry(attempt, cause, wait):
            return False
        exchange.refuse_answer(attempt)
        if self.running:
            exchange.attempt = self.running[0]
        else:
            self._wait(exchange.no_endpoint(), wait)
        return True

    def expired(self, now: float) -> None:
        """A back-off is over, or a try is slow."""
        self._alarm = None
        exchange = self._exchange
        if self.running:
            self._hedge()
            return
        attempt = exchange.next_attempt(self._tried)
        if attempt is None:
            exchange.fail(self._rejection or exchange.no_endpoint())
            return
        exchange.attempt = attempt
        self.begin(attempt)

    def end(self, now: float) -> None:
        """The request is over, however."""
        self._silence()
        running, self.running = self.running, []
        for attempt in running:
            attempt.drop(now, failed=None)
        while self._lent:
            self._give_back()

    # Inside

    def _hedge(self) -> None:
        exchange = self._exchange
        self._hedged = True
        if not self._may_double() or not self._lend():
            return
        attempt = exchange.next_attempt(self._tried, new=True)
        if attempt is None:
            self._give_back()
        else:
            self.begin(attempt)

    def _may_double(self) -> bool:
        """Whether it may be at two endpoints at the same time."""
        exchange = self._exchange
        whole = exchange.request_complete and exchange.body_bytes <= REPLAY_BYTES
        return whole and exchange.is_idempotent and exchange.is_replayable and not exchange.upgrade

    def _may_retry(self, attempt: Attempt, cause: Cause, wait_seconds: float) -> bool:
        """Whether one more try follows; the budget has lent it then."""
        retries, exchange = self._route.retries, self._exchange
        if retries is None or cause.value not in retries.on:
            return False
        if len(self._tried) >= retries.attempts or wait_seconds > LONGEST_RETRY_AFTER_SECONDS:
            return False
        repeatable = exchange.is_idempotent or retries.unsafe or not attempt.has_left
        return repeatable and exchange.is_replayable and self._lend()

    def _lend(self) -> bool:
        """Whether the service takes one more: a probe of its breaker is one request and no more."""
        if self._service.breaker.state != CLOSED:
            return False
        if not self._service.budget.may_retry(self._service.metrics.in_flight):
            return False
        self._lent += 1
        return True

    def _give_back(self) -> None:
        self._lent -= 1
        self._service.budget.retry_over()

    def _wait(self, rejection: Rejection, seconds: float) -> None:
        exchange = self._exchange
        self._silence()
        self._rejection = rejection
        if self._route.retries is not None:
            seconds = max(seconds, backoff_seconds(self._route.retries, self._retries))
        self._retries += 1
        exchange.attempt = None
        self._alarm = exchange.context.deadlines.alarm(self, seconds)

    def _ended(self, attempt: Attempt) -> None:
        if attempt in self.running:
            self.running.remove(attempt)
            if attempt is not self._first:
                self._give_back()

    def _silence(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
