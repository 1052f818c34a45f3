"""One request, from admission to its access record. Callbacks only: nothing here waits, nothing is
a Task.

The client's connection hands in the head and the body as they come, the pool hands in a connection,
that one hands in the response as it comes. Whatever happens, `_conclude` runs exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.edge import message as m
from gateway.edge.admission import admit
from gateway.edge.answer import OPTIONS_ALLOW, answer, answer_error
from gateway.edge.headers import Field, is_traceparent, trailers
from gateway.edge.message import BY_CLOSE, CHUNKED, UNFRAMED, Framing
from gateway.edge.pool import NoConnection, Pool
from gateway.edge.reading import ResponseReader
from gateway.edge.record import UNROUTED, write_record
from gateway.edge.roles import Client
from gateway.edge.tunnel import Tunnel
from gateway.errors import Rejection
from gateway.routing.services import Service

if TYPE_CHECKING:
    from gateway.edge.context import LocalRequest
    from gateway.edge.upstream import UpstreamConnection
    from gateway.policy.auth import Identity

REPLAY_BYTES: Final = 65536  # of a request body kept for the stale keep-alive race
CLIENT_GONE: Final = 499  # as nginx logs it; never sent
# RFC 9110 §9.2.2: what a proxy may send again of its own accord.
_IDEMPOTENT: Final = frozenset(b"GET HEAD OPTIONS PUT DELETE TRACE PROPFIND REPORT SEARCH".split())


class Exchange:
    """One request and its response. Class-level defaults are what most exchanges never change."""

    service: Service | None = None
    route: str = UNROUTED
    path = b""
    query = b""
    limit_lines = b""
    upstream: UpstreamConnection | None = None
    endpoint_name: str | None = None
    status = 0  # as sent to the client; 0: nothing was sent yet
    error_code: str | None = None
    attempts = 0
    bytes_in = 0  # body bytes from the client
    bytes_out = 0  # body bytes to the client
    sent_at = 0.0  # monotonic seconds when the request went to the upstream; 0: never
    answered_at = 0.0  # when the upstream's response ended
    request_complete = False
    request_id = ""
    correlation_id = ""
    traceparent = b""
    end_reason: str | None = None
    finished = False
    identity: Identity | None = None
    early: Sequence[bytes] = ()  # body that came with the head, as it came
    _local: LocalRequest | None = None
    _pool: Pool | None = None
    _framing: Framing = UNFRAMED
    _keep = False
    _retried = False
    _upload_over = False
    _interim_sent = False
    _upgrade = b""
    _idle_timeout = 0.0
    _sent_bytes = 0
    _written_at = 0  # the outbox's count when the request was written

    def __init__(self, client: Client, head: m.RequestHead, now: float) -> None:
        self.client = client
        self.context = client.context
        self.client_address = client.peer.address
        self.head = head
        self.started = now
        self.started_wall = self.context.wall()  # seconds since 1970
        self._unsent: list[bytes] = []  # framed body that waits for a connection
        self._sent: list[bytes] = []  # framed body that a retry would send again

    def __repr__(self) -> str:
        state = "finished" if self.finished else "answering" if self.status else "waiting"
        return f"<Exchange {self.request_id} {state} status={self.status} upstream={self.upstream}>"

    # The request

    def start(self) -> None:
        """Admit the request and send it on its way, or answer it."""
        head, context = self.head, self.context
        self._identify()
        if head.target == b"*" and head.method == b"OPTIONS":
            answer(self, 204, [OPTIONS_ALLOW], None)
            return
        rejection = admit(context, self, self.client.peer)
        service = self.service
        if service is not None:
            service.metrics.in_flight += 1
        if rejection is not None or service is None:
            self.reject(rejection or Rejection("INTERNAL_ERROR", "admitted nowhere"))
            return
        if max(head.content_length or 0, self.bytes_in) > service.settings.max_body_bytes:
            self.reject(self._too_large(service))
            return
        if service is context.mounted:
            begin = context.local.get((self.route, head.method))
            if begin is not None:
                self._local = begin(self)
                self._unsent = []
                self.client.hold_upload(False)
                self._local.receive(self.early, self.request_complete)
                if self.awaits_continue and not self.request_complete and not self.status:
                    self._interim_sent = True
                    self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 §10.1.1
                return
        if head.upgrade is not None:
            self._upgrade = m.allowed_upgrade(head.upgrade, service.upgrades)
        self._pool = context.pools[service.balance.pick().key]
        self._pool.acquire(self)

    def _identify(self) -> None:
        head, ids = self.head, self.context.ids
        given, correlation, parent = head.request_id, head.correlation_id, head.traceparent
        self.request_id = given.decode("ascii") if given else ids.request_id(self.started_wall)
        self.correlation_id = correlation.decode("ascii") if correlation else self.request_id
        if parent is None or not is_traceparent(parent):
            head.tracestate = (
                None  # it belongs to the trace that was not taken (W3C Trace Context §3.3)
            )
            parent = ids.traceparent(None if given else self.request_id).encode("ascii")
        self.traceparent = parent

    def connected(self, upstream: UpstreamConnection) -> None:
        """The pool's answer: send the request."""
        head, endpoint = self.head, upstream.endpoint
        self.upstream = upstream
        self.endpoint_name = endpoint.name
        self.attempts += 1
        self.sent_at = self.context.clock()
        upstream.begin(self, is_head=head.method == b"HEAD")
        target = (endpoint.base_path + self.path or b"/") + self.query
        pieces = m.request_pieces(
            head, target, endpoint.host_line, self._added_lines(), self._upgrade
        )
        if self._unsent:
            pieces += self._unsent
            self._remember(self._unsent)
            self._unsent = []
        outbox = self.context.outbox
        self._written_at = outbox.flushes
        outbox.write(upstream.transport, b"".join(pieces))
        if not self.request_complete:
            self.client.hold_upload(False)
        if self.client.paused:
            upstream.hold_reading(True)
        elif self.request_complete or self.awaits_continue:
            self._await_head(upstream)

    def _added_lines(self) -> bytes:
        """The fields that the gateway sets: forwarding, Via, ids, trace."""
        head, context = self.head, self.context
        via = context.via_10 if head.version == m.HTTP_10 else context.via_11
        if head.via is not None:
            via = b"Via: " + b", ".join([*head.via, via[5:]])
        ids = (self.request_id.encode(), self.correlation_id.encode(), self.traceparent)
        lines = m.added_lines(self.client.forwarding(head), via, ids, head.tracestate)
        if self.service is context.mounted:
            # For the control application alone; clients can't send these (headers.request_kind).
            lines += b"X-Gateway-Client: %b\r\n" % self.client_address.encode()
            if not head.forwarding and head.via is None:
                lines += b"X-Gateway-Direct: 1\r\n"
            if self.identity is not None:
                lines += b"X-Gateway-Identity: %b\r\n" % self.identity.encode()
        return lines

    def request_body(self, pieces: list[bytes], complete: bool, end: list[Field]) -> None:
        """More of the body came from the client; `end`: the trailers when `complete`."""
        if self.finished:
            return
        size = sum(map(len, pieces))
        self.bytes_in += size
        self.request_complete = complete
        if self._upload_over:
            return
        if self.service is not None and self.bytes_in > self.service.settings.max_body_bytes:
            self.reject(self._too_large(self.service))
            return
        if self._local is not None:
            self._local.receive(pieces, complete)
            return
        framed = pieces
        if self.head.chunked:
            framed = m.chunk(pieces) if size else []
            if complete:
                framed.append(m.last_chunk(trailers(end)))
        upstream = self.upstream
        if upstream is None:
            self._unsent += framed
            if not complete:
                self.client.hold_upload(True)
            return
        if framed:
            if not complete and self.head.expects_continue:
                self.context.deadlines.clear(upstream)  # it waits for us now
            self._remember(framed)
            self.context.outbox.write(upstream.transport, b"".join(framed))
        if complete:
            self._await_head(upstream)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1)."""
        return self.head.expects_continue and not self.bytes_in and not self._interim_sent

    def _remember(self, framed: list[bytes]) -> None:
        self._sent_bytes += sum(map(len, framed))
        if self._sent_bytes <= REPLAY_BYTES:
            self._sent += framed
        else:
            self._sent = []

    def _await_head(self, upstream: UpstreamConnection) -> None:
        if self.service is not None and not self.status:
            self.context.deadlines.after(upstream, self.service.settings.head_timeout)

    def _too_large(self, service: Service) -> Rejection:
        message = f"the body is larger than {service.settings.max_body_bytes} bytes"
        return Rejection("PAYLOAD_TOO_LARGE", message, close=True)

    # The response

    def upstream_data(self, upstream: UpstreamConnection) -> None:
        """The upstream sent something."""
        reader = upstream.reader
        if reader.interim:
            self._relay_interim(reader)
        pieces: list[bytes] = []
        if not self.status:
            begun = self._begin_response(upstream, reader)
            if begun is None:
                return
            pieces = begun
        body = reader.body
        if body:
            reader.body = []
            self.bytes_out += sum(map(len, body))
            pieces += m.chunk(body) if self._framing is CHUNKED else body
        if reader.complete:
            self._end_response(reader, pieces)
            return
        if pieces:
            self.client.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if reader.failure is not None:
            self._truncate(reader.failure)
        elif self.upstream is not None and not self.client.paused:
            self.context.deadlines.after(upstream, self._idle_timeout)

    def _begin_response(
        self, upstream: UpstreamConnection, reader: ResponseReader
    ) -> list[bytes] | None:
        """The response head for the client; None when it is not there yet, or was dealt with
        otherwise.
        """
        head = reader.head
        if reader.failure is not None or reader.excess:
            self._upstream_fault(reader.failure or "bytes behind the end of the response")
            return None
        if head is None:
            return None
        if head.status == 101:
            self._switch(upstream, head)
            return None
        line = m.status_line(head.status, head.reason)
        service = self.service
        if line is None or service is None:
            self._upstream_fault("control characters in the reason phrase")
            return None
        self.status = head.status
        settings = service.settings
        self._idle_timeout = (
            settings.stream_idle_timeout if head.is_event_stream else settings.idle_timeout
        )
        upstream.keep_alive_seconds = head.keep_alive_seconds
        if service is self.context.mounted:
            self.error_code = head.error_code
        limit_lines = self.limit_lines
        pieces, self._framing = m.response_pieces(line, head, self.head, limited=limit_lines != b"")
        if not head.has_date:
            pieces += (b"Date: ", self.context.date(), b"\r\n")
        if not self.request_complete:
            # A final status before the body ends the upload: nobody wants the rest (RFC 9112 §9.6).
            self._upload_over = True
            self.client.hold_upload(True)
        pieces += (limit_lines, self.closing_lines(self._framing is not BY_CLOSE))
        return pieces

    def _end_response(self, reader: ResponseReader, pieces: list[bytes]) -> None:
        if self._framing is CHUNKED:
            pieces.append(m.last_chunk(trailers(reader.trailers) if reader.trailers else []))
        if pieces:
            self.client.write(b"".join(pieces))
        # An upload that was not finished leaves the connection in the middle of a message.
        self.finish(reusable=reader.keep_alive and self.request_complete and not reader.excess)

    def closing_lines(self, framed: bool) -> bytes:
        """X-Request-ID, Connection and the empty line; decides whether the connection is kept."""
        head = self.head
        self._keep = (
            framed and head.keep_alive and self.request_complete and not self.context.draining
        )
        request_id = self.request_id.encode()
        if not self._keep:
            return b"X-Request-ID: %b\r\nConnection: close\r\n\r\n" % request_id
        if head.version == m.HTTP_10:
            return b"X-Request-ID: %b\r\nConnection: keep-alive\r\n\r\n" % request_id
        return b"X-Request-ID: %b\r\n\r\n" % request_id

    def _relay_interim(self, reader: ResponseReader) -> None:
        """Pass 1xx on to clients that know them (RFC 9110 §15.2)."""
        interim, reader.interim = reader.interim, []
        self._interim_sent = True
        if self.head.version != m.HTTP_11 or self.status:
            return
        for head in interim:
            line = m.status_line(head.status, head.reason)
            if line is not None:
                self.client.write(b"".join([line, *m.field_lines(head.fields), b"\r\n"]))

    def _switch(self, upstream: UpstreamConnection, head: m.ResponseHead) -> None:
        """The upstream said 101: from here on bytes pass both ways, if that was asked for."""
        behind = upstream.reader.upgraded
        answer = m.switching_pieces(head, self._upgrade)
        if behind is None or answer is None:
            self._upstream_fault("101 Switching Protocols that was not asked for")
            return
        self.status = 101
        answer += (
            self.limit_lines,
            b"X-Request-ID: ",
            self.request_id.encode(),
            b"\r\n\r\n",
            behind,
        )
        self.client.write(b"".join(answer))
        self.bytes_out += len(behind)
        Tunnel(self, upstream, m.token(head.upgrade) == b"websocket", behind)

    def tunnel_ended(self, reason: str) -> None:
        """Both directions of the tunnel are over."""
        self.end_reason = reason
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.detached_end()
        self._conclude()
        self.client.detached_end()

    # What goes wrong

    def not_connected(self, reason: NoConnection) -> None:
        """The pool has no connection for this request."""
        retry_after = 1 if reason.code in ("OVERLOADED", "SERVICE_UNAVAILABLE") else None
        self.reject(Rejection(reason.code, reason.message, retry_after))

    def upstream_lost(self, upstream: UpstreamConnection, *, clean: bool) -> None:
        """The upstream's connection ended; `clean`: by a FIN, not by a reset."""
        reader = upstream.reader
        if self.status:
            if reader.by_close and clean:
                self._end_response(reader, [])
            else:
                self._truncate("the upstream broke off in the middle of the response")
        elif self._pool is not None and self._may_send_again(upstream):
            self._retried = True
            self.upstream = None
            self._unsent = self._sent + self._unsent
            self._sent, self._sent_bytes = [], 0
            self.context.metrics.retry(upstream.endpoint.service)
            self._pool.acquire(self, fresh=True)
        else:
            self._upstream_fault("it closed the connection without an answer")

    def _may_send_again(self, upstream: UpstreamConnection) -> bool:
        """The stale keep-alive race: a reused connection that was closed before any response byte.

        A request that is not idempotent is not sent again once it has left: it may have been
        processed (RFC 9110 §9.2.2).
        """
        not_left = self.context.outbox.flushes == self._written_at
        return (
            upstream.reused
            and not self._retried
            and not self._interim_sent
            and upstream.reader.untouched
            and (self.head.method in _IDEMPOTENT or not_left)
            and self._sent_bytes <= REPLAY_BYTES
        )

    def upstream_timeout(self, upstream: UpstreamConnection) -> None:
        """The upstream was silent for too long."""
        service = self.service
        if self.status or service is None:
            self._truncate(f"nothing from the upstream for {self._idle_timeout:g} s", "TIMEOUT")
            return
        if self.request_complete:
            message = f"no answer within {service.settings.head_timeout:g} s"
        else:
            message = f"it took nothing of the body for {service.settings.idle_timeout:g} s"
        self.reject(Rejection("TIMEOUT", f"service {service.name!r}: {message}"))

    def upstream_paused(self, paused: bool) -> None:
        """The upstream takes no more, or again: so it is with reading the client."""
        upstream = self.upstream
        self.client.hold_upload(paused or self._upload_over)
        if upstream is None or self.service is None or self.status:
            return
        if paused:
            self.context.deadlines.after(upstream, self.service.settings.idle_timeout)
        elif self.request_complete:
            self._await_head(upstream)
        else:
            self.context.deadlines.clear(upstream)

    def client_paused(self, paused: bool) -> None:
        """The client takes no more, or again: so it is with reading the upstream."""
        upstream = self.upstream
        if upstream is None or upstream.transport.is_closing():
            return
        upstream.hold_reading(paused)
        if paused:
            if self.status or self.request_complete:  # an upload that is not taken keeps its time
                self.context.deadlines.clear(upstream)  # its silence is ours
        elif self.status:
            self.context.deadlines.after(upstream, self._idle_timeout)
        elif self.request_complete:
            self._await_head(upstream)

    def client_gone(self, reason: str) -> None:
        """The client left: the upstream is let go at once."""
        if not self.finished:
            self.status = CLIENT_GONE
            self.end_reason = reason
            self._drop_upstream()
            self._conclude()

    def _upstream_fault(self, what: str) -> None:
        if self._pool is not None:
            self._pool.last_error = what
        name = self.service.name if self.service is not None else UNROUTED
        self.reject(Rejection("PROXY_ERROR", f"service {name!r} gave no valid answer: {what}"))

    def _truncate(self, why: str, code: str = "PROXY_ERROR") -> None:
        """The response can't be completed: never let it look complete."""
        self.error_code, self.end_reason = code, why
        if self._pool is not None:
            self._pool.last_error = why
        self._drop_upstream()
        self._conclude()
        self.client.cut(flush=self._framing is not BY_CLOSE)

    def reject(self, rejection: Rejection) -> None:
        """Answer with an error of the gateway's own."""
        if self.finished:
            return
        if self.status:
            self._truncate(rejection.message, rejection.code)
            return
        if not self.request_id:
            self._identify()
        self.error_code = rejection.code
        self._drop_upstream()
        if rejection.close:
            self.request_complete = False
        answer_error(self, rejection)

    # The end

    def _drop_upstream(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self.answered_at = self.context.clock()
            upstream.abort()
        elif self._pool is not None:
            self._pool.cancel(self)

    def finish(self, *, reusable: bool) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self.answered_at = self.context.clock()
            upstream.end(reusable=reusable)
        self.finished = True
        write_record(self)
        self.client.exchange_done(keep=self._keep)

    def _conclude(self) -> None:
        """Figures and the access record, once."""
        if not self.finished:
            self.finished = True
            write_record(self)
