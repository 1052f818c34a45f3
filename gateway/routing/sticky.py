"""Sticky sessions: a signed cookie that leads a browser back to the endpoint it began with. Pure.

The cookie (RFC 6265) names the endpoint by an id that only the holder of the key can make, or make
out: no address leaves the gateway, and nobody chooses an endpoint by writing a cookie. All gateways
with the same key know each other's cookies. One that is tampered with, or names an endpoint that is
not there or takes no requests, is as good as none.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from gateway.routing.endpoint import Endpoint

_MAX_VALUES: Final = 4  # cookies of our name that are tried; a browser sends one for a path
_ID_BYTES: Final = 8
_LABEL: Final = b"sticky session"  # so that the secret signs nothing else


def cookie_values(field: bytes | None, name: bytes) -> list[bytes]:
    """The values of the cookies called `name` in a Cookie field (RFC 6265 §4.2)."""
    if field is None or name not in field:
        return []
    pairs = (pair.strip().partition(b"=") for pair in field.split(b";"))
    return [value for called, equals, value in pairs if equals and called == name][:_MAX_VALUES]


class Sticky:
    """One service's cookies."""

    __slots__ = ("_endpoints", "_key", "_known", "_lines", "_made_for", "_name", "_service")

    def __init__(
        self, name: str, secret: str, service: str, endpoints: Callable[[], Sequence[Endpoint]]
    ) -> None:
        """`name` is the cookie's; `endpoints` says which the service has now, each time the same
        object as long as they are the same.
        """
        self._name = name.encode("ascii")
        self._key = hmac.digest(secret.encode(), _LABEL, sha256)
        self._service = service.encode()
        self._endpoints = endpoints
        self._made_for: Sequence[Endpoint] | None = None
        self._known: dict[bytes, tuple[bytes, Endpoint]] = {}  # by id: signature and endpoint
        self._lines: dict[Endpoint, bytes] = {}

    def __repr__(self) -> str:
        return f"<Sticky {self._name.decode()} of {self._service.decode()}>"

    def endpoint(self, field: bytes | None) -> Endpoint | None:
        """The endpoint that a Cookie field names; None: none that takes requests."""
        if field is None:
            return None
        self._keep_up()
        for value in cookie_values(field, self._name):
            name, _, signature = value.partition(b".")
            expected, endpoint = self._known.get(name, (b"", None))
            if endpoint is None or not hmac.compare_digest(signature, expected):
                continue
            if endpoint.available:
                return endpoint
        return None

    def line(self, endpoint: Endpoint, *, secure: bool = False) -> bytes:
        """The Set-Cookie line for a session that begins at `endpoint`; `secure`: the client came by
        TLS. It has no end of its own: a browser keeps it for its session.
        """
        self._keep_up()
        begin = self._lines.get(endpoint)
        if begin is None:  # it was removed while the request was under way
            begin = self._line(*self._signed(endpoint))
        return begin + (b"; Secure\r\n" if secure else b"\r\n")

    def _keep_up(self) -> None:
        endpoints = self._endpoints()
        if endpoints is self._made_for:
            return
        self._made_for = endpoints
        self._known = {}
        self._lines = {}
        for each in endpoints:
            name, signature = self._signed(each)
            self._known[name] = (signature, each)
            self._lines[each] = self._line(name, signature)

    def _signed(self, endpoint: Endpoint) -> tuple[bytes, bytes]:
        """An endpoint's id, and the signature on it."""
        about = b"\0".join((b"id", self._service, endpoint.name.encode()))
        name = hmac.digest(self._key, about, sha256)[:_ID_BYTES].hex().encode()
        about = b"\0".join((b"signature", self._name, self._service, name))
        return name, hmac.digest(self._key, about, sha256).hex().encode()

    def _line(self, name: bytes, signature: bytes) -> bytes:
        value = b"%b=%b.%b" % (self._name, name, signature)
        return b"Set-Cookie: %b; Path=/; HttpOnly; SameSite=Lax" % value
