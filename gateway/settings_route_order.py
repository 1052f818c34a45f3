"""Which of two rows comes first, and rows that no request could meet: those that are equal to
another in all, and those that others cover.

The order: the more specific path (`Pattern.order`), then a host before any host, more conditions on
fields before fewer, then the row that stands first. What is narrower always comes before what holds
it, so that a row is out of reach only where several others cover it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.settings_patterns import Kind, Pattern, Segment
from gateway.settings_route_rows import HeaderCondition, RouteSettings
from gateway.settings_values import SettingsError, Value

_ANY: Final = "*"  # every method that no row lists


def condition_order(
    host: str | None, headers: Sequence[HeaderCondition]
) -> tuple[int, int, int, int]:
    """Of two rows with one pattern the one of lesser order comes first."""
    rank = 2 if host is None else 1 if host.startswith("*") else 0
    equal = sum(condition.value is not None for condition in headers)
    return (rank, -len(host or ""), -len(headers), -equal)


def check_order(rows: Sequence[RouteSettings]) -> None:
    """Raises SettingsError (`file:line: …`) for a row that is ambiguous or out of reach."""
    _check_equal(rows)
    open_ones = [row for row in rows if row.pattern.is_open]
    if not open_ones:
        return
    reach = _Reach(rows)
    for row in open_ones:
        taking = reach.taking(row)
        if taking:
            others = ", ".join(sorted({other.where for other in taking}))
            raise _error(
                row, f"is never met: the rows at {others} cover all its paths", "a row that is met"
            )


def _error(row: RouteSettings, problem: str, expected: str) -> SettingsError:
    return Value(f"routes {row.name!r}", None, row.where).error(problem, expected)


def _check_equal(rows: Iterable[RouteSettings]) -> None:
    """Two rows that the same requests meet, and neither is the more specific."""
    met: dict[tuple[object, ...], RouteSettings] = {}
    for row in rows:
        for method in row.methods or (_ANY,):
            key = (row.pattern.shape, row.host, row.headers, method)
            other = met.setdefault(key, row)
            if other is not row:
                what = "" if method == _ANY else f" by {method}"
                raise _error(
                    row, f"matches{what} what the row at {other.where} does", "one row for each"
                )


class _Node:
    """Rows by the segments of their patterns: few are compared with few."""

    __slots__ = ("ends", "literals", "parameter", "stems")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.stems: list[RouteSettings] = []
        self.ends: list[RouteSettings] = []

    def add(self, row: RouteSettings) -> None:
        node = self
        for segment in row.pattern.segments:
            if segment.kind is Kind.STEM:
                node.stems.append(row)
                return
            if segment.kind is Kind.LITERAL:
                node = node.literals.setdefault(segment.text, _Node())
            else:
                node.parameter = node.parameter or _Node()
                node = node.parameter
        node.ends.append(row)

    def holding(self, segments: Sequence[Segment]) -> Iterator[RouteSettings]:
        """The rows with as many segments, each of which covers the one in its place."""
        if not segments:
            yield from self.ends
            return
        first, *others = segments
        if not others and first.kind is not Kind.PARAMETER:
            yield from (row for row in self.stems if row.pattern.segments[-1].covers(first))
        if first.kind is Kind.LITERAL and first.text in self.literals:
            yield from self.literals[first.text].holding(others)
        if self.parameter is not None:
            yield from self.parameter.holding(others)


class _Reach:
    """Which rows take all requests of another one."""

    def __init__(self, rows: Iterable[RouteSettings]) -> None:
        self._root = _Node()
        self._depth = 0
        for row in rows:
            self._root.add(row)
            self._depth = max(self._depth, len(row.pattern.segments))

    def taking(self, row: RouteSettings) -> list[RouteSettings]:
        """The rows that take all of an open row's requests; empty when some are left to it."""
        found: list[RouteSettings] = []
        for method in row.methods or (_ANY,):
            taking = self._below(row, row.pattern.segments, method)
            if not taking:
                return []
            found += taking
        return found

    def _below(
        self, row: RouteSettings, segments: tuple[Segment, ...], method: str
    ) -> list[RouteSettings]:
        """Who takes all paths that begin with `segments`: one open row, or one row for just these
        and whoever takes what is deeper.
        """
        taking = self._one(row, Pattern("", segments, is_open=True), method)
        if taking or len(segments) > self._depth:
            return taking
        here = self._one(row, Pattern("", segments), method)
        deeper = here and self._below(row, (*segments, Segment(Kind.PARAMETER)), method)
        return [*here, *deeper] if deeper else []

    def _one(self, row: RouteSettings, region: Pattern, method: str) -> list[RouteSettings]:
        """A row that comes before `row` and takes a whole region by itself."""
        for other in self._root.holding(region.segments):
            if (
                other.pattern.is_open is region.is_open
                and other.pattern.order < row.pattern.order
                and _takes(other, method)
                and _asks_no_more(other, row)
            ):
                return [other]
        return []


def _takes(row: RouteSettings, method: str) -> bool:
    methods = row.methods
    return methods is None or method in methods or (method == "HEAD" and "GET" in methods)


def _asks_no_more(other: RouteSettings, row: RouteSettings) -> bool:
    """Whether each request that meets the conditions of `row` meets those of `other`."""
    if other.host is not None and other.host != row.host:
        if row.host is None or not other.host.startswith("*"):
            return False
        if not row.host.endswith(other.host[1:]):
            return False
    return all(
        condition in row.headers
        or (condition.value is None and any(condition.name == has.name for has in row.headers))
        for condition in other.headers
    )
