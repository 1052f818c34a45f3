"""Which service or mounted path a request target means, and which targets are refused. Pure.

The path is matched and forwarded as the bytes that came: decoding and normalising before forwarding
is how requests leave the tree they were sent to (`..%2f`, `%252e`, `..;/`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

PREFIX: Final = b"/api/v1/"
ServiceT = TypeVar("ServiceT")

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_AUTHORITY: Final = re.compile(rb"(?!:)[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]+").fullmatch
_FORBIDDEN: Final = re.compile(rb"[/\\\x00]")


class BadTarget(ValueError):
    """A request target that is refused; the text says why."""


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query (with its `?`, or empty) of a request target; raises BadTarget.

    The absolute form (RFC 9112 §3.2.2) is reduced to its path; `*` stays as it is.
    """
    if not target.startswith(b"/"):
        if target == b"*":
            return target, b""
        scheme, _, rest = target.partition(b"://")
        if scheme.lower() not in (b"http", b"https"):
            raise BadTarget("the request target is neither a path nor an http URL")
        at = min((i for i in map(rest.find, (b"/", b"?", b"#")) if i >= 0), default=len(rest))
        if not _AUTHORITY(rest[:at]):
            raise BadTarget("the URL names no host (RFC 9110 §4.2.1)")
        target = rest[at:] if rest[at : at + 1] == b"/" else b"/" + rest[at:]
    if b"#" in target:
        raise BadTarget("a request target has no fragment (RFC 9112 §3.2)")
    at = target.find(b"?")
    path, query = (target, b"") if at < 0 else (target[:at], target[at:])
    if b"%" in path or b"/." in path or b"\\" in path or b";" in path:
        _check_path(path)
    return path, query


def _check_path(path: bytes) -> None:
    """Refuse what a back end could read as another path than the one matched here."""
    if b"\\" in path:
        raise BadTarget("a backslash in the path")
    if _BAD_ESCAPE.search(path):
        raise BadTarget("a percent sign that begins no escape in the path")
    for segment in path.split(b"/"):
        once = unquote_to_bytes(segment)
        for form in (segment, once, unquote_to_bytes(once)):
            if form.partition(b";")[0] in (b".", b"..") or _is_dots_before_semicolon(form):
                raise BadTarget("a dot segment in the path")
            if _FORBIDDEN.search(form):
                raise BadTarget("an encoded slash, backslash or NUL in the path")


def _is_dots_before_semicolon(segment: bytes) -> bool:
    name, semicolon, _ = segment.partition(b";")
    return bool(semicolon) and bool(name) and not name.strip(b".")


class RouteTable(Generic[ServiceT]):
    """The open line `/api/v1/{service}/…` and the paths mounted from inside."""

    def __init__(self, services: Mapping[str, ServiceT], mounted: Iterable[str]) -> None:
        """`services`: by every name they answer to, written with `_`. A segment of a mounted path
        that is written `{name}` stands for any that is not empty.
        """
        self._services = {name.encode(): service for name, service in services.items()}
        # The usual spelling with hyphens without a second look-up.
        for name, service in services.items():
            self._services.setdefault(name.replace("_", "-").encode(), service)
        self._mounted: dict[bytes, str] = {}
        self._patterns: dict[int, list[tuple[list[bytes], str]]] = {}  # by number of segments
        for path in mounted:
            if "{" in path:
                segments = path.encode().split(b"/")
                self._patterns.setdefault(len(segments), []).append((segments, path))
            else:
                self._mounted[path.encode()] = path
        self._names = sorted(services)

    def match(self, path: bytes) -> tuple[ServiceT | None, str, bytes] | None:
        """What `path` (no query) belongs to, or None.

        A service, its route's name, and the bytes behind the service's name; or, with no service, a
        mounted path, its name, and all of it.
        """
        if path.startswith(PREFIX):
            name, slash, rest = path[len(PREFIX) :].partition(b"/")
            service = self._services.get(name) or self._services.get(name.replace(b"-", b"_"))
            if service is not None:
                return service, "/api/v1/{service}", slash + rest
        mounted = self._mounted.get(path) or self._match_pattern(path)
        return None if mounted is None else (None, mounted, path)

    def _match_pattern(self, path: bytes) -> str | None:
        segments = path.split(b"/")
        for pattern, name in self._patterns.get(len(segments), ()):
            for wanted, segment in zip(pattern, segments, strict=True):
                if wanted != segment and not (wanted.startswith(b"{") and segment):
                    break
            else:
                return name
        return None

    def names(self) -> list[str]:
        """The services that can be named in a path."""
        return list(self._names)
