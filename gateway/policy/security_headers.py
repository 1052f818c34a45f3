"""What browsers are told with every answer of the gateway's own: errors, pages, admin API. Pure.

Answers that come from a service keep what the service says; a service knows its pages, the gateway
does not. CSP Level 3 §6.4.2 (frame-ancestors), RFC 6797 (Strict-Transport-Security), the Fetch
standard (nosniff), Referrer Policy.
"""

from __future__ import annotations

from typing import Final

from gateway.settings import Settings

Fields = tuple[tuple[str, str], ...]

# A year, which browsers' preload lists ask for; subdomains are not the gateway's to speak for.
HSTS_SECONDS: Final = 31_536_000

_FIELDS: Final[Fields] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),  # for browsers that do not know frame-ancestors
    # JSON and text need nothing from anywhere, should a browser ever show them as a page.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
_WITH_TLS: Final[Fields] = (
    *_FIELDS,
    ("Strict-Transport-Security", f"max-age={HSTS_SECONDS}"),
)


def _lines(fields: Fields) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")


_LINES: Final = _lines(_FIELDS)
_LINES_WITH_TLS: Final = _lines(_WITH_TLS)


def security_fields(settings: Settings) -> Fields:
    """The fields, none when SECURITY_HEADERS is off; HSTS only where the gateway itself has TLS:
    over plain HTTP browsers ignore it (RFC 6797 §8.1), and what stands in front speaks for itself.
    """
    if not settings.security_headers:
        return ()
    return _FIELDS if settings.tls_cert is None else _WITH_TLS


def security_lines(settings: Settings) -> bytes:
    """The same as they stand in a head, CRLF-ended."""
    if not settings.security_headers:
        return b""
    return _LINES if settings.tls_cert is None else _LINES_WITH_TLS
