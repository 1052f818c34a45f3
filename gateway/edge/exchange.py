"""One request, from its head to its access record: what is known of it, its body on the way up, and
its end. Callbacks only, nothing here waits.

How it gets in is in entering.py, its tries at endpoints in attempts.py and retrying.py, its answer
on the way down in relaying.py. Whatever happens, `_conclude` runs exactly once.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from gateway.edge import message as m
from gateway.edge import relaying
from gateway.edge.affinity import choose
from gateway.edge.answer import answer_error
from gateway.edge.attempts import REPLAY_BYTES, Attempt, Cause
from gateway.edge.entering import identify
from gateway.edge.headers import Field, trailers, without_aliases
from gateway.edge.message import BY_CLOSE, UNFRAMED, Framing
from gateway.edge.passing import request_pieces
from gateway.edge.record import UNROUTED, write_record
from gateway.edge.roles import Client
from gateway.errors import Rejection
from gateway.routing.services import Endpoint, Service

if TYPE_CHECKING:
    from gateway.edge.context import LocalRequest
    from gateway.edge.deadlines import Handle
    from gateway.edge.line import Line
    from gateway.edge.retrying import Tries
    from gateway.edge.upstream import UpstreamConnection
    from gateway.observe.trace import Trace
    from gateway.policy.auth import Identity
    from gateway.policy.breaker import Pass
    from gateway.routing.routes import Route

CLIENT_GONE: Final = 499  # as nginx logs it; never sent
# RFC 9110 §9.2.2: what a proxy may send again of its own accord.
_IDEMPOTENT: Final = frozenset(b"GET HEAD OPTIONS PUT DELETE TRACE PROPFIND REPORT SEARCH".split())


_NONE: Final[frozenset[bytes]] = frozenset()


class Exchange:
    """One request and its response."""

    # With slots fifty attributes are set in 0.6 µs; a dict of more than thirty costs more to fill.
    __slots__ = (
        "agent", "answer_lines", "answered_at", "attempt", "attempts", "body", "body_bytes",
        "bytes_in", "bytes_out", "caller_lines", "client", "client_address", "context",
        "correlation_id", "drop_api_key", "early", "end", "end_reason", "endpoint_name",
        "error_code", "failed", "finished", "framing", "hash_key", "head", "identity",
        "idle_timeout", "interim_sent", "keep", "let_go", "limit_lines", "line", "local", "named",
        "pass_", "path", "policy", "query", "removed", "request_complete", "request_id", "route",
        "sent_at", "service", "started", "started_wall", "status", "total", "trace", "traceparent",
        "tries", "upgrade", "upload_over", "waiting",
    )  # fmt: skip

    def __init__(self, client: Client, head: m.RequestHead, now: float) -> None:
        self.client = client
        self.context = client.context
        self.client_address = client.peer.address
        self.head = head
        self.started = now
        self.started_wall = self.context.wall()  # seconds since 1970
        # What the checks at the door find out (admission.Arrival).
        self.service: Service | None = None
        self.policy: Route | None = None
        self.route: str = UNROUTED
        self.path = b""
        self.query = b""
        self.identity: Identity | None = None
        self.agent: str | None = None
        self.pass_: Pass | None = None  # the breaker's, settled once
        self.hash_key: bytes | None = None
        self.drop_api_key = False
        self.limit_lines = b""
        self.answer_lines = b""  # fields of every answer
        self.caller_lines = b""  # fields that tell the service who asks
        # What becomes of it.
        self.attempt: Attempt | None = None  # the one that answers, or is to
        self.named: Endpoint | None = None  # by the client's sticky cookie
        self.endpoint_name: str | None = None
        self.status = 0  # as sent to the client; 0: nothing was sent yet
        self.error_code: str | None = None
        self.attempts = 0
        self.bytes_in = 0  # body bytes from the client
        self.bytes_out = 0  # body bytes to the client
        self.sent_at = 0.0  # monotonic seconds when the request first went to an upstream; 0: never
        self.answered_at = 0.0  # when the upstream's response ended
        self.request_complete = False
        self.request_id = ""
        self.correlation_id = ""
        self.traceparent = b""
        self.trace: Trace | None = None
        self.upgrade = b""  # the protocols asked for, as far as they are allowed
        self.end_reason: str | None = None
        self.finished = False
        self.end: list[Field] | None = None  # the trailers, as they came
        self.early: Sequence[bytes] = ()  # body that came with the head, as it came
        self.failed: bool | None = None  # what the breaker is told; None: it counts for nothing
        self.local: LocalRequest | None = None
        self.tries: Tries | None = None  # where the route retries or hedges
        self.line: Line | None = None
        self.waiting: Future[None] | None = None  # for a policy
        self.total: Handle | None = None
        self.removed = _NONE  # names of the client's fields that the service does not get
        self.framing: Framing = UNFRAMED
        self.keep = False
        self.upload_over = False
        self.interim_sent = False
        self.idle_timeout = 0.0
        self.body_bytes = 0
        self.let_go = False  # of body that was sent: it can't be sent again
        self.body: list[bytes] = []  # framed: what no upstream has yet, or may need once more

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering" if self.status else "waiting"
        return f"<Exchange {self.request_id} {state} status={self.status} {self.attempt}>"

    # The request

    def take_off(self, removed: frozenset[bytes]) -> None:
        """The service does not get the client's fields of these names (lower case)."""
        self.removed = removed
        self.head.fields = without_aliases(self.head.fields, removed)
        if self.end and self.body:  # the body has come, and ends in trailers
            self.body[-1] = m.last_chunk(trailers(self.end, removed))

    def let_in(self) -> None:
        """Nothing stands before the service any more: the first attempt."""
        attempt = self.attempt = self.next_attempt()
        if attempt is None:
            self.reject(self.no_endpoint())
        elif self.tries is None:
            attempt.pool.acquire(attempt)
        else:
            self.tries.begin(attempt)

    def turned_away(self, rejection: Rejection) -> None:
        """The service's line was too slow."""
        self.line = None
        self.reject(rejection)

    def next_attempt(
        self, avoid: Collection[Endpoint] = (), *, new: bool = False
    ) -> Attempt | None:
        """An attempt that is to begin, at an endpoint that is not in `avoid` where there is another
        (`new`: only then); None: at none.
        """
        service, context = self.service, self.context
        if service is None:
            return None
        if service.sticky is None and service.hash_source is None and not avoid:
            endpoint = service.pick(None, self.started)
        else:
            endpoint = choose(self, service, avoid)
        pool = None if endpoint is None else context.pools.get(endpoint.key)
        if endpoint is None or pool is None or (new and endpoint in avoid):
            return None
        service.picked(endpoint)
        self.attempts += 1
        self.endpoint_name = endpoint.name
        return Attempt(self, service, endpoint, pool)

    def send(self, upstream: UpstreamConnection) -> None:
        """Send it to an endpoint, with all that is there of its body."""
        context, complete = self.context, self.request_complete
        if not self.sent_at:
            self.sent_at = context.clock()
        pieces = request_pieces(self, upstream.endpoint)
        if self.body:
            pieces += self.body
            if self.body_bytes > REPLAY_BYTES:
                self.body, self.let_go = [], True
        if not complete:
            self.client.hold_upload(False)  # unless that much is too much at once
        context.outbox.write(upstream.transport, b"".join(pieces))
        if self.client.paused:
            upstream.hold_reading(True)
        elif complete or self.awaits_continue:
            self._await_head(upstream)

    def request_body(self, pieces: list[bytes], complete: bool, end: list[Field]) -> None:
        """More of the body came from the client; `end`: the trailers when `complete`."""
        if self.finished:
            return
        size = sum(map(len, pieces))
        self.bytes_in += size
        self.request_complete = complete
        if self.upload_over:
            return
        service = self.service
        if service is not None and self.bytes_in > self.most_bytes(service):
            self.reject(self.too_large(service))
            return
        if self.local is not None:
            self.local.receive(pieces, complete)
            return
        if self.waiting is not None:
            self.early = [*self.early, *pieces]
        framed = pieces
        if self.head.chunked:
            framed = m.chunk(pieces) if size else []
            if complete:
                framed.append(m.last_chunk(trailers(end, self.removed)))
                self.end = end
        upstream = None if self.attempt is None else self.attempt.upstream
        if upstream is None:
            self.body += framed
            self.body_bytes += size
            if not complete:
                self.client.hold_upload(True)
        else:
            self._send_body(upstream, framed, complete)
        if complete and self.tries is not None:
            self.tries.request_complete()

    def _send_body(self, upstream: UpstreamConnection, framed: list[bytes], complete: bool) -> None:
        if framed:
            if not complete and self.head.expects_continue:
                self.context.deadlines.clear(upstream)  # it waits for us now
            data = b"".join(framed)
            self.body_bytes += len(data)
            if self.body_bytes > REPLAY_BYTES:
                self.body, self.let_go = [], True
            else:
                self.body.append(data)
            self.context.outbox.write(upstream.transport, data)
        if complete:
            self._await_head(upstream)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1)."""
        return self.head.expects_continue and not self.bytes_in and not self.interim_sent

    @property
    def is_idempotent(self) -> bool:
        """Whether sending it twice does what sending it once does (RFC 9110 §9.2.2)."""
        return self.head.method in _IDEMPOTENT

    @property
    def is_replayable(self) -> bool:
        """Whether it may go out once more: nothing went to the client, and its body is kept."""
        return not (self.let_go or self.interim_sent or self.status or self.finished)

    def _await_head(self, upstream: UpstreamConnection) -> None:
        service, policy = self.service, self.policy
        if service is not None and not self.status:
            own = None if policy is None else policy.head_timeout
            seconds = service.settings.head_timeout if own is None else own
            self.context.deadlines.after(upstream, seconds)

    def silence_seconds(self, service: Service) -> float:
        """How long the upstream may be still in the middle of a message."""
        own = None if self.policy is None else self.policy.idle_timeout
        return service.settings.idle_timeout if own is None else own

    def most_bytes(self, service: Service) -> int:
        """How large its body may be."""
        own = None if self.policy is None else self.policy.max_body_bytes
        return service.settings.max_body_bytes if own is None else own

    def too_large(self, service: Service) -> Rejection:
        """The refusal of its body."""
        message = f"the body is larger than {self.most_bytes(service)} bytes"
        return Rejection("PAYLOAD_TOO_LARGE", message, close=True)

    # The answer

    def closing_lines(self, framed: bool) -> bytes:
        """The last lines of every answer, up to the empty one; decides whether the connection is
        kept.
        """
        head = self.head
        self.keep = (
            framed and head.keep_alive and self.request_complete and not self.context.draining
        )
        if not self.keep:
            return self.own_lines() + b"Connection: close\r\n\r\n"
        if head.version == m.HTTP_10:
            return self.own_lines() + b"Connection: keep-alive\r\n\r\n"
        return self.own_lines() + b"\r\n"

    def own_lines(self) -> bytes:
        """The fields of every answer of this exchange, whoever gives it."""
        lines = b"%bX-Request-ID: %b\r\n" % (self.answer_lines, self.request_id.encode())
        if self.attempts > 1 or (self.tries is not None and self.attempts):
            lines += b"X-Gateway-Attempts: %d\r\n" % self.attempts
        return lines

    def replaying(self) -> None:
        """It goes out once more, since its connection was stale."""
        self.attempts += 1
        if self.service is not None:
            self.context.metrics.retry(self.service.name)

    def refuse_answer(self, attempt: Attempt) -> None:
        """An answer is not passed on: it was read already, or its connection is closed."""
        upstream = attempt.upstream
        reader = None if upstream is None else upstream.reader
        whole = reader is not None and reader.complete and reader.keep_alive
        reusable = whole and self.request_complete
        attempt.end(self.context.clock(), failed=True, reusable=reusable)

    def tunnel_ended(self, reason: str) -> None:
        """Both directions of the tunnel are over."""
        self.end_reason = reason
        attempt, self.attempt = self.attempt, None
        if attempt is not None and attempt.upstream is not None:
            attempt.upstream.detached_end()
            attempt.settle(self.context.clock(), False)
        self._conclude()
        self.client.detached_end()

    # What goes wrong

    def no_endpoint(self) -> Rejection:
        """The refusal where no endpoint is left to ask."""
        name = self.service.name if self.service is not None else UNROUTED
        message = f"no endpoint of service {name!r} takes requests now; try again later"
        return Rejection("SERVICE_UNAVAILABLE", message, 1)

    def attempt_failed(self, attempt: Attempt, cause: Cause, rejection: Rejection) -> None:
        """An attempt came to nothing: on with another one, or that is the answer."""
        now = self.context.clock()
        failed = None if cause is Cause.NOT_THERE else True
        attempt.drop(now, failed=failed)
        if self.tries is not None and self.tries.over(attempt, cause, rejection):
            return
        self.attempt, self.answered_at = None, now
        self.fail(rejection, failed=failed)

    def _fault(self, attempt: Attempt, cause: Cause, code: str, what: str) -> None:
        if code == "PROXY_ERROR":
            attempt.pool.last_error = what
            what = f"gave no valid answer: {what}"
        name = self.service.name if self.service is not None else UNROUTED
        self.attempt_failed(attempt, cause, Rejection(code, f"service {name!r} {what}"))

    def nonsense(self, attempt: Attempt, what: str) -> None:
        """An upstream sent what is no answer."""
        self._fault(attempt, Cause.BAD_GATEWAY, "PROXY_ERROR", what)

    def upstream_lost(self, attempt: Attempt, upstream: UpstreamConnection, *, clean: bool) -> None:
        """An upstream's connection ended; `clean`: by a FIN, not by a reset."""
        reader = upstream.reader
        if not self.status:
            what = "it closed the connection without an answer"
            self._fault(attempt, Cause.RESET, "PROXY_ERROR", what)
        elif reader.by_close and clean:
            relaying.end(self, reader, [])
        else:
            self.break_off("the upstream broke off in the middle of the response")

    def upstream_timeout(self, attempt: Attempt) -> None:
        """An upstream was silent for too long."""
        service = self.service
        if self.status or service is None:
            self.break_off(f"nothing from the upstream for {self.idle_timeout:g} s", "TIMEOUT")
            return
        if self.request_complete:
            own = None if self.policy is None else self.policy.head_timeout
            seconds = service.settings.head_timeout if own is None else own
            what = f"gave no answer within {seconds:g} s"
        else:
            what = f"took nothing of the body for {self.silence_seconds(service):g} s"
        # A client that waits for a 100 has sent no body that could be answered.
        cause = Cause.NOT_THERE if self.awaits_continue else Cause.TIMEOUT
        self._fault(attempt, cause, "TIMEOUT", what)

    def attempt_timeout(self, attempt: Attempt) -> None:
        """The time that the route gives one attempt is over."""
        self._fault(attempt, Cause.TIMEOUT, "TIMEOUT", "gave no answer in the time of one attempt")

    def expired(self, now: float) -> None:
        """The time that the route gives the whole request is over."""
        self.total = None
        policy = self.policy
        if self.finished or policy is None:
            return
        # While the client is still sending, or does not read, the service is not to blame.
        failed = True if self.request_complete and not self.client.paused else None
        message = f"the request took longer than {policy.total_timeout:g} s"
        self.fail(Rejection("TIMEOUT", message), failed=failed)

    def upstream_paused(self, attempt: Attempt, paused: bool) -> None:
        """An upstream takes no more, or again: so it is with reading the client."""
        upstream, service = attempt.upstream, self.service
        self.client.hold_upload(paused or self.upload_over)
        if upstream is None or service is None or self.status:
            return
        if paused:
            self.context.deadlines.after(upstream, self.silence_seconds(service))
        elif self.request_complete:
            self._await_head(upstream)
        else:
            self.context.deadlines.clear(upstream)

    def client_paused(self, paused: bool) -> None:
        """The client takes no more, or again: so it is with reading the upstream."""
        running = self.tries.running if self.tries is not None else []
        if not running and self.attempt is not None:
            running = [self.attempt]
        for attempt in running:
            upstream = attempt.upstream
            if upstream is not None and not upstream.transport.is_closing():
                self._hold_answer(upstream, paused)

    def _hold_answer(self, upstream: UpstreamConnection, paused: bool) -> None:
        upstream.hold_reading(paused)
        if paused:
            if self.status or self.request_complete:  # an upload that is not taken keeps its time
                self.context.deadlines.clear(upstream)  # its silence is ours
        elif self.status:
            self.context.deadlines.after(upstream, self.idle_timeout)
        elif self.request_complete:
            self._await_head(upstream)

    def client_gone(self, reason: str) -> None:
        """The client left: the upstream is let go at once."""
        if not self.finished:
            self.status = CLIENT_GONE
            self.end_reason = reason
            self._drop(failed=None)
            self._conclude()

    def break_off(self, why: str, code: str = "PROXY_ERROR") -> None:
        """The upstream's response does not go on."""
        if self.attempt is not None:
            self.attempt.pool.last_error = why
        self._truncate(why, code, failed=True)

    def _truncate(self, why: str, code: str, *, failed: bool | None) -> None:
        """The response can't be completed: never let it look complete."""
        self.error_code, self.end_reason = code, why
        self._drop(failed=failed)
        self._conclude()
        self.client.cut(flush=self.framing is not BY_CLOSE)

    def reject(self, rejection: Rejection) -> None:
        """Answer with an error of the gateway's own."""
        self.fail(rejection, failed=None)

    def fail(self, rejection: Rejection, *, failed: bool | None = True) -> None:
        """The same; `failed`: what it says of the service, None: nothing."""
        if self.finished:
            return
        if self.status:
            self._truncate(rejection.message, rejection.code, failed=failed)
            return
        if not self.request_id:
            identify(self)
        self.error_code = rejection.code
        self._drop(failed=failed)
        if rejection.close:
            self.request_complete = False
        answer_error(self, rejection)

    # The end

    def _drop(self, *, failed: bool | None) -> None:
        """Let go of what works on the answer; `failed`: whether that was the service's fault."""
        self.failed = failed
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            self.answered_at = now = self.context.clock()
            attempt.drop(now, failed=failed)
        if self.waiting is not None:
            self.waiting.cancel()

    def finish(self, *, reusable: bool) -> None:
        """The answer is out."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            self.answered_at = now = self.context.clock()
            attempt.end(now, failed=self.failed, reusable=reusable)
        self._conclude()
        self.client.exchange_done(keep=self.keep)

    def _conclude(self) -> None:
        """Everyone who counts is told, the breaker and the record too; once."""
        if self.finished:
            return
        self.finished = True
        pass_, service, line = self.pass_, self.service, self.line
        if pass_ is not None and service is not None:
            now = self.answered_at or self.context.clock()
            service.breaker.settle(pass_, self.failed, now)
        if self.tries is not None:
            self.tries.end(self.context.clock())
        if self.total is not None:
            self.total.cancel()
        write_record(self)
        if line is not None:
            line.leave(self)
