"""Which patterns a path matches, all of them: a tree of segments, walked once for a path. Pure.

What a pattern may say is in gateway/settings_patterns.py; which of several rows is most specific
is asked in gateway/routing/patterns.py: limits want all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from gateway.settings_patterns import Kind, Pattern

FoundT = TypeVar("FoundT")


class _Node(Generic[FoundT]):
    """Where the same segments have led to."""

    __slots__ = ("ends", "literals", "parameter", "tails")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[FoundT]] = {}
        self.parameter: _Node[FoundT] | None = None  # any one segment
        self.ends: list[FoundT] = []  # patterns that end here
        self.tails: list[
            tuple[str, FoundT]
        ] = []  # and those that go on: with any segment that begins so


class PathIndex(Generic[FoundT]):
    """Patterns, each with what is to be found by it."""

    __slots__ = ("_root",)

    def __init__(self, rows: Iterable[tuple[Pattern, FoundT]]) -> None:
        self._root: _Node[FoundT] = _Node()
        for pattern, found in rows:
            node = self._root
            stem = ""
            for segment in pattern.segments:
                text = segment.text.decode("utf-8", "surrogateescape")  # as `path_text` has it
                if segment.kind is Kind.STEM:
                    stem = text
                elif segment.kind is Kind.PARAMETER:
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(text, _Node())
            if pattern.is_open:
                node.tails.append((stem, found))
            else:
                node.ends.append(found)

    def match(self, path: str) -> tuple[FoundT, ...]:
        """What all patterns say that match `path` (`settings_patterns.path_text`), the shortest
        first.
        """
        found: list[FoundT] = []
        _walk(self._root, path[1:].split("/") if path != "/" else [], 0, found)
        return tuple(found)


def _walk(node: _Node[FoundT], segments: list[str], at: int, found: list[FoundT]) -> None:
    """Add what is found from `node` on, by the segments from `at` on. Each node is met once at
    most, so a path costs no more than all patterns together have segments.
    """
    for place in range(at, len(segments)):
        segment = segments[place]
        for stem, value in node.tails:
            if segment.startswith(stem):
                found.append(value)
        if node.parameter is not None:
            _walk(node.parameter, segments, place + 1, found)
        below = node.literals.get(segment)
        if below is None:
            return
        node = below
    found += node.ends
    found += [value for stem, value in node.tails if not stem]
