"""Which pages of other origins may call and read the answers: the CORS protocol of the Fetch
standard (§3.2), by exact origins. Pure.

A preflight is answered from here, without limits and services. A foreign origin is told nothing,
which is how a browser learns that it is one; `null` is foreign always, and access from public pages
to a private network is granted to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.settings import Settings

Field = tuple[bytes, bytes]

# What pages may read of an answer besides the fields that are safe (Fetch §3.2.3).
EXPOSED: Final = (
    "X-Request-ID", "X-Correlation-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining",
    "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy", "Retry-After", "Location",
    "X-Gateway-Attempts",
)  # fmt: skip
# A service's own say on this, in lower case: while the gateway decides it is taken off, since two
# of them are none to a browser.
CORS_FIELDS: Final = frozenset((
    b"access-control-allow-origin", b"access-control-allow-credentials",
    b"access-control-allow-methods", b"access-control-allow-headers",
    b"access-control-allow-private-network", b"access-control-expose-headers",
    b"access-control-max-age",
))  # fmt: skip

_VARY: Final = (b"Vary", b"Origin")
_VARY_PREFLIGHT: Final = (
    b"Vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)
_ANY: Final = ("*",)


class Cors:
    """The answers by origin, made once."""

    __slots__ = ("_any", "_foreign", "_headers", "_lines", "_methods", "_origins", "_permission")

    def __init__(self, settings: Settings) -> None:
        origins = tuple(settings.cors_origins)
        self._any = origins == _ANY
        self._origins = frozenset(() if self._any else (o.encode("ascii") for o in origins))
        self._methods = frozenset(method.encode("ascii") for method in settings.cors_methods)
        self._headers = frozenset(name.lower().encode("ascii") for name in settings.cors_headers)
        self._permission: tuple[Field, ...] = (
            (b"Access-Control-Allow-Methods", ", ".join(settings.cors_methods).encode("ascii")),
            (b"Access-Control-Allow-Headers", ", ".join(settings.cors_headers).encode("ascii")),
            (b"Access-Control-Max-Age", b"%d" % settings.cors_max_age),
        )
        exposed = (b"Access-Control-Expose-Headers", ", ".join(EXPOSED).encode("ascii"))
        self._foreign = _joined([_VARY])
        self._lines = {
            origin: _joined([*self._allowed(origin), exposed, _VARY])
            for origin in (self._origins if not self._any else (b"*",))
        }

    def __repr__(self) -> str:
        return f"<Cors origins={'any' if self._any else len(self._origins)}>"

    def _allowed(self, origin: bytes) -> list[Field]:
        """The fields that let an origin in; never credentials for any (Fetch §3.2.5)."""
        if self._any:
            return [(b"Access-Control-Allow-Origin", b"*")]
        return [
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Allow-Credentials", b"true"),
        ]

    def lines(self, origin: bytes | None) -> bytes:
        """The fields of an answer, CRLF-ended; `origin` is the request's Origin field.

        Vary is there whoever asks, so that no cache gives one origin's answer to another.
        """
        if self._any:
            return self._lines[b"*"]
        return self._foreign if origin is None else self._lines.get(origin, self._foreign)

    def preflight(
        self, origin: bytes | None, method: bytes | None, headers: bytes = b""
    ) -> list[Field] | None:
        """The fields of the 204 that answers a preflight, or None when it is none: then it is an
        ordinary OPTIONS request. To be asked for OPTIONS only.

        `method` and `headers` are the values of Access-Control-Request-Method and -Headers. What is
        not allowed gets an answer that allows nothing.
        """
        if origin is None or method is None:
            return None
        if not (self._any or origin in self._origins) or not self._permits(method, headers):
            return [_VARY_PREFLIGHT]
        return [*self._allowed(origin), *self._permission, _VARY_PREFLIGHT]

    def _permits(self, method: bytes, headers: bytes) -> bool:
        """Whether all that is asked for may be used. Methods are compared by case, names of fields
        are not (Fetch §3.2.4).
        """
        asked = (name.strip().lower() for name in headers.split(b","))
        return method in self._methods and all(name in self._headers for name in asked if name)


def _joined(fields: Sequence[Field]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)
