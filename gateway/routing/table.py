"""Which route, open service or mounted path a request target means, and which targets are refused.
Pure.

The path is forwarded as the bytes that came: decoding and normalising before forwarding is how
requests leave the tree they were sent to (`..%2f`, `%252e`, `..;/`). Rows are matched in the plain
form of the path (`settings_patterns`), so that `%61dmin`, `//` or `;x` do not walk round one;
services of the open line and mounted paths are chosen by the raw bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from gateway.routing.matching import Head, Matching
from gateway.routing.patterns import PatternTree
from gateway.settings_patterns import Kind, Pattern, Rewrite

PREFIX: Final = b"/api/v1/"
_NAME_AT: Final = len(PREFIX)

# Looking for a number is ten times as fast as looking for a byte string of one (0.03 to 0.36 µs).
_HASH, _PERCENT, _BACKSLASH, _SEMICOLON, _DOT = b"#%\\;."
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
    if _HASH in target:
        raise BadTarget("a request target has no fragment (RFC 9112 §3.2)")
    at = target.find(b"?")
    path, query = (target, b"") if at < 0 else (target[:at], target[at:])
    dotted = _DOT in path and b"/." in path
    if dotted or _PERCENT in path or _BACKSLASH in path or _SEMICOLON in path:
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


class Row(Protocol):
    """What the table needs of a route; without `matching` it can only be on the open line."""

    @property
    def name(self) -> str: ...
    @property
    def matching(self) -> Matching | None: ...
    @property
    def rewrite(self) -> Rewrite | None: ...


RouteT = TypeVar("RouteT", bound=Row)


class Match(NamedTuple, Generic[RouteT]):
    """Where a request leads: a route, its name, and the path to forward; with no route a mounted
    path, its name, and all of it.
    """

    route: RouteT | None
    name: str
    path: bytes


_MATCH: Final = tuple.__new__  # half of what Match(…) costs: 0.26 µs


class MethodNotAllowed(NamedTuple):
    """Rows for this path are there, none of them for this method. `allow` is the value of the Allow
    field (RFC 9110 §10.2.1), `name` that of the most specific row.
    """

    allow: bytes
    name: str


class _Group(Generic[RouteT]):
    """The rows of one pattern with the same conditions, by method."""

    __slots__ = ("by_method", "matching", "otherwise")

    def __init__(self, matching: Matching) -> None:
        self.matching = matching
        self.by_method: dict[bytes, RouteT] = {}
        self.otherwise: RouteT | None = None  # for methods that no other row lists

    def add(self, route: RouteT, methods: Iterable[bytes] | None) -> None:
        if methods is None:
            if self.otherwise is not None:
                raise ValueError(f"two rows for the same requests: {route.name}")
            self.otherwise = route
            return
        for method in methods:
            if method in self.by_method:
                raise ValueError(f"two rows for the same requests: {route.name}")
            self.by_method[method] = route

    def finish(self) -> None:
        """HEAD goes where GET goes, unless a row lists it (RFC 9110 §9.3.2)."""
        if b"GET" in self.by_method:
            self.by_method.setdefault(b"HEAD", self.by_method[b"GET"])


class _Choice(Generic[RouteT]):
    """All rows of one pattern: the groups with conditions first, the one without last."""

    __slots__ = ("by_method", "groups", "is_plain", "otherwise")

    def __init__(self, routes: Iterable[tuple[RouteT, Matching]]) -> None:
        groups: dict[tuple[object, ...], _Group[RouteT]] = {}
        for route, matching in sorted(routes, key=lambda pair: pair[1].order):
            group = groups.setdefault(matching.conditions, _Group(matching))
            group.add(route, matching.methods)
        self.groups = tuple(groups.values())
        for group in self.groups:
            group.finish()
        # What nearly every row is like, at hand: no conditions, one group.
        self.is_plain = len(self.groups) == 1 and not self.groups[0].matching.is_conditional
        self.by_method = self.groups[0].by_method if self.is_plain else {}
        self.otherwise = self.groups[0].otherwise if self.is_plain else None


def _choices(routes: Iterable[RouteT]) -> list[tuple[Pattern, _Choice[RouteT]]]:
    """The rows by their patterns; what parameters are called makes no difference."""
    by_shape: dict[tuple[object, ...], list[tuple[RouteT, Matching]]] = {}
    for route in routes:
        if route.matching is None:
            raise ValueError(f"a row without a pattern: {route.name}")
        by_shape.setdefault(route.matching.pattern.shape, []).append((route, route.matching))
    return [(rows[0][1].pattern, _Choice(rows)) for rows in by_shape.values()]


def _spellings(
    rows: Iterable[RouteT], open_routes: Mapping[str, RouteT]
) -> dict[int, tuple[bytes, ...]]:
    """How rows write the names of services on the open line, by the route to such a service.

    A service answers to several names, and `-` is `_` in each: a row that writes one of them must
    not be walked round by another.
    """
    found: dict[int, set[bytes]] = {}
    for row in rows:
        segments = () if row.matching is None else row.matching.pattern.segments
        if len(segments) < 3 or (segments[0].text, segments[1].text) != (b"api", b"v1"):
            continue
        kind, text = segments[2].kind, segments[2].text
        if kind is Kind.PARAMETER:
            continue  # stands for every name
        plain = text.replace(b"-", b"_")
        for name, route in open_routes.items():
            written = name.encode()
            if written == plain or (kind is Kind.STEM and written.startswith(plain)):
                found.setdefault(id(route), set()).add(text + written[len(plain) :])
    return {key: tuple(sorted(texts)) for key, texts in found.items()}


class Mounted:
    """The paths that are answered from inside, compared as the bytes that came."""

    __slots__ = ("_patterns", "exact", "stems")

    def __init__(self, paths: Iterable[str]) -> None:
        self.exact: dict[bytes, str] = {}
        self._patterns: dict[int, list[tuple[list[bytes], str]]] = {}  # by number of segments
        stems: set[bytes] = set()
        for path in paths:
            if "{" in path:
                segments = path.encode().split(b"/")
                self._patterns.setdefault(len(segments), []).append((segments, path))
                stems.add(path.partition("{")[0].encode())
            else:
                self.exact[path.encode()] = path
        self.stems = tuple(sorted(stems))  # how a path begins that a pattern may cover

    def by_pattern(self, path: bytes) -> str | None:
        segments = path.split(b"/")
        for pattern, name in self._patterns.get(len(segments), ()):
            for wanted, segment in zip(pattern, segments, strict=True):
                if wanted != segment and not (wanted.startswith(b"{") and segment):
                    break
            else:
                return name
        return None


class RouteTable(Generic[RouteT]):
    """The rows, the open line `/api/v1/{service}/…`, and the paths mounted from inside.

    Mounted paths come first, then the rows. A path that a row's pattern covers never falls through
    to the open line, whatever else the row asks for: a Host or a field that is left out, or another
    method, must not lead round it.
    """

    def __init__(
        self,
        routes: Sequence[RouteT],
        open_routes: Mapping[str, RouteT],
        mounted: Iterable[str],
    ) -> None:
        """`open_routes`: by every name that the service answers to, written with `_`. A segment of
        a mounted path that is written `{name}` stands for any that is not empty.

        Raises ValueError for two rows that the same requests would meet; the settings say so
        before, with file and line.
        """
        self._tree = PatternTree(_choices(routes))
        self._exact = self._tree.exact
        self._has_rows = bool(routes)
        self._mounted = Mounted(mounted)
        self._open = {name.encode(): route for name, route in open_routes.items()}
        # The usual spelling with hyphens without a second look-up.
        for name, route in open_routes.items():
            self._open.setdefault(name.replace("_", "-").encode(), route)
        self._names = sorted(open_routes)
        self._spellings = _spellings(routes, open_routes)

    def match(
        self, method: bytes, path: bytes, head: Head
    ) -> Match[RouteT] | MethodNotAllowed | None:
        """What `path` (no query) belongs to; None: to nothing, or to rows whose conditions on Host
        and fields this request does not meet.
        """
        choice = self._exact.get(path)
        if choice is None:
            mounted = self._mounted
            own = mounted.exact.get(path)
            if own is None and path.startswith(mounted.stems):
                own = mounted.by_pattern(path)
            if own is not None:
                return _MATCH(Match, (None, own, path))
            if self._has_rows:
                choice = self._tree.find(path)
        if choice is not None:
            if choice.is_plain:
                route = choice.by_method.get(method, choice.otherwise)
                if route is not None:
                    target = path if route.rewrite is None else route.rewrite(path)
                    return _MATCH(Match, (route, route.name, target))
            return self._choose(method, path, path, head)
        if path.startswith(PREFIX):
            name, slash, rest = path[_NAME_AT:].partition(b"/")
            route = self._open.get(name) or self._open.get(name.replace(b"-", b"_"))
            if route is not None:
                if self._spellings:  # rows write names of services
                    for spelling in self._spellings.get(id(route), ()):
                        same = b"%b%b%b%b" % (PREFIX, spelling, slash, rest)
                        if self._tree.find(same) is not None:
                            return self._choose(method, same, path, head)
                return _MATCH(Match, (route, route.name, slash + rest))
        return None

    def _choose(
        self, method: bytes, path: bytes, came: bytes, head: Head
    ) -> Match[RouteT] | MethodNotAllowed | None:
        """The most specific row that the request meets in all; where it is but the method that none
        of them takes, those that they take. `came` is what is forwarded.
        """
        allow: dict[bytes, RouteT] = {}  # the most specific row's first
        for choice in self._tree.find_all(path):
            for group in choice.groups:
                if not group.matching.is_met(head):
                    continue
                route = group.by_method.get(method, group.otherwise)
                if route is not None:
                    target = came if route.rewrite is None else route.rewrite(came)
                    return Match(route, route.name, target)
                for listed, route in group.by_method.items():
                    allow.setdefault(listed, route)
        if not allow:
            return None
        return MethodNotAllowed(b", ".join(sorted(allow)), next(iter(allow.values())).name)

    def names(self) -> list[str]:
        """The services that the open line reaches."""
        return list(self._names)
