"""Many patterns at once: which is the most specific that covers a path. Pure.

Exact paths are found by one look in a dictionary. All others begin with literal text, their head:
the heads that a path begins with are found by one bisection, and what follows them segment by
segment. A path costs by its own length and by how patterns branch behind one head, not by how many
there are. How one pattern is written and read is in `settings_patterns`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import Final, Generic, TypeVar

from gateway.settings_patterns import Kind, Pattern, Segment, plain_path

FoundT = TypeVar("FoundT")

_LAST: Final = 1 << 60  # behind all ranks
# Looking for a number is ten times as fast as looking for a byte string of one (0.03 to 0.36 µs).
_SLASH: Final = ord("/")


class _Node(Generic[FoundT]):
    """Where patterns with the same segments behind a head go on."""

    __slots__ = ("below", "end", "literals", "parameter", "stems")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node[FoundT]] = {}
        self.parameter: _Node[FoundT] | None = None
        self.end: FoundT | None = None  # a pattern ends here
        self.below: tuple[int, FoundT] | None = None  # an open one ends here, and its rank
        self.stems: list[tuple[bytes, int, FoundT]] = []  # by rank: the longest first

    def add(self, segments: Iterable[Segment], rank: int, found: FoundT, *, is_open: bool) -> None:
        """Patterns come by their ranks."""
        node = self
        for segment in segments:
            if segment.kind is Kind.STEM:
                node.stems.append((segment.text, rank, found))
                return
            if segment.kind is Kind.LITERAL:
                node = node.literals.setdefault(segment.text, _Node())
            else:
                node.parameter = node.parameter or _Node()
                node = node.parameter
        if is_open:
            node.below = (rank, found)
        else:
            node.end = found

    def find(self, segments: list[bytes], best_rank: int) -> tuple[int, FoundT] | None:
        """The most specific: rank -1 for one that ends where the path does, which comes before all
        open ones; of these one that comes before `best_rank`.

        Literals first: a parameter beside one is looked at when the literal leads nowhere.
        """
        count = len(segments)
        waiting: list[tuple[_Node[FoundT], int]] = []
        best: tuple[int, FoundT] | None = None
        node, at = self, 0
        while True:
            below = node.below
            if below is not None and below[0] < best_rank:
                best, best_rank = below, below[0]
            if at < count:
                segment = segments[at]
                at += 1
                for text, rank, found in node.stems:
                    if rank < best_rank and segment.startswith(text):
                        best, best_rank = (rank, found), rank
                child = node.literals.get(segment)
                if child is not None:
                    if node.parameter is not None:
                        waiting.append((node.parameter, at))
                    node = child
                    continue
                if node.parameter is not None:
                    node = node.parameter
                    continue
            elif node.end is not None:
                return -1, node.end
            if not waiting:
                return best
            node, at = waiting.pop()

    def find_all(
        self, segments: list[bytes], ends: list[FoundT], open_ones: list[tuple[int, FoundT]]
    ) -> None:
        """Add what ends where the path does, the most specific first, and the open ones."""
        waiting: list[tuple[_Node[FoundT], int]] = [(self, 0)]
        while waiting:
            node, at = waiting.pop()
            if node.below is not None:
                open_ones.append(node.below)
            if at == len(segments):
                if node.end is not None:
                    ends.append(node.end)
                continue
            segment = segments[at]
            open_ones += [
                (rank, each) for text, rank, each in node.stems if segment.startswith(text)
            ]
            if node.parameter is not None:
                waiting.append((node.parameter, at + 1))
            if segment in node.literals:  # taken next, so before the parameter
                waiting.append((node.literals[segment], at + 1))


class _Head(Generic[FoundT]):
    """Patterns with one head: the whole of it is said in `text`, up to a slash or in a segment."""

    __slots__ = ("below", "best_rank", "has_tail", "only", "outer_rank", "tail", "text", "within")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.below: tuple[int, FoundT] | None = None  # an open pattern, and its rank
        self.only: FoundT | None = None  # a parameter and nothing else
        self.has_tail = False
        self.tail: _Node[FoundT] | None = None  # what begins with a parameter otherwise
        self.within: _Head[FoundT] | None = None  # the longest other head that this begins with
        self.best_rank = _LAST  # of its patterns
        self.outer_rank = _LAST  # the best of those of the heads that this begins with


class PatternTree(Generic[FoundT]):
    """What belongs to the most specific of the patterns that cover a path.

    Patterns differ in shape (ValueError).
    """

    __slots__ = ("_depth", "_heads", "_texts", "exact")

    def __init__(self, patterns: Iterable[tuple[Pattern, FoundT]]) -> None:
        self.exact: dict[bytes, FoundT] = {}  # patterns that are paths, with and without a slash
        self._depth = 0  # segments of the longest tail
        heads: dict[bytes, _Head[FoundT]] = {}
        shapes = set()
        for rank, (pattern, found) in enumerate(sorted(patterns, key=lambda pair: pair[0].order)):
            if pattern.shape in shapes:
                raise ValueError(f"two patterns of one shape: {pattern}")
            shapes.add(pattern.shape)
            self._add(pattern, rank, found, heads)
        self._texts = sorted(heads)
        self._heads = [heads[text] for text in self._texts]
        for at, head in enumerate(self._heads):
            outer = self._heads[at - 1] if at else None
            while outer is not None and not head.text.startswith(outer.text):
                outer = outer.within
            if outer is not None:
                head.within = outer
                head.outer_rank = min(outer.best_rank, outer.outer_rank)

    def _add(
        self, pattern: Pattern, rank: int, found: FoundT, heads: dict[bytes, _Head[FoundT]]
    ) -> None:
        segments = pattern.segments
        literals = 0
        while literals < len(segments) and segments[literals].kind is Kind.LITERAL:
            literals += 1
        text = b"".join(b"/" + segment.text for segment in segments[:literals])
        if literals == len(segments) and not pattern.is_open:
            self.exact[text or b"/"] = found
            self.exact[text + b"/"] = found
            return
        rest = segments[literals:]
        if rest and rest[0].kind is Kind.STEM:
            text, rest = text + b"/" + rest[0].text, ()
        else:
            text += b"/"
        head = heads.setdefault(text, _Head(text))
        head.best_rank = min(head.best_rank, rank)
        if not rest:
            head.below = (rank, found)
            return
        head.has_tail = True
        if len(rest) == 1 and not pattern.is_open:
            head.only = found
        else:
            head.tail = head.tail or _Node()
            head.tail.add(rest, rank, found, is_open=pattern.is_open)
            self._depth = max(self._depth, len(rest))

    def find(self, path: bytes) -> FoundT | None:
        """What belongs to the most specific pattern that covers a path (as it came)."""
        found = self.exact.get(path)
        if found is not None:
            return found
        text = path.decode("latin-1")  # two bytes are found in text in half the time
        if "%" in text or ";" in text or "//" in text:
            path = plain_path(path)
            found = self.exact.get(path)
            if found is not None:
                return found
        if path[-1] != _SLASH:
            path += b"/"
        at = bisect_right(self._texts, path) - 1
        head = self._heads[at] if at >= 0 else None
        # Whatever stands between a head and a path that begins with it, in the order of bytes,
        # begins with it too.
        while head is not None and not path.startswith(head.text):
            head = head.within
        best: FoundT | None = None
        best_rank = _LAST
        while head is not None:
            if head.below is not None and head.below[0] < best_rank:
                best_rank, best = head.below
            if head.has_tail:
                rest = path[len(head.text) : -1]
                if head.only is not None and rest and _SLASH not in rest:
                    return head.only
                if head.tail is not None and rest:
                    # At most one piece more than the longest tail: a long path costs no more.
                    inner = head.tail.find(rest.split(b"/", self._depth), best_rank)
                    if inner is not None:
                        best_rank, best = inner
                        if best_rank < 0:
                            return best
            if best_rank < head.outer_rank:
                return best
            head = head.within
        return best

    def find_all(self, path: bytes) -> list[FoundT]:
        """What belongs to every pattern that covers the path, the most specific first."""
        path = plain_path(path)
        exact = self.exact.get(path)
        ends: list[FoundT] = [] if exact is None else [exact]
        open_ones: list[tuple[int, FoundT]] = []
        path = path if path.endswith(b"/") else path + b"/"
        at = bisect_right(self._texts, path) - 1
        head = self._heads[at] if at >= 0 else None
        while head is not None:
            if not path.startswith(head.text):
                head = head.within
                continue
            if head.below is not None:
                open_ones.append(head.below)
            rest = path[len(head.text) : -1]
            if head.only is not None and rest and _SLASH not in rest:
                ends.append(head.only)
            if head.tail is not None and rest:
                head.tail.find_all(rest.split(b"/", self._depth), ends, open_ones)
            head = head.within
        return ends + [found for _, found in sorted(open_ones, key=itemgetter(0))]
