"""Numbers out of samples: percentiles, medians with their spread, how they are printed. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of samples in ascending order; `share` is 0.99 for p99.

    Raises ValueError when there is no sample or the share is not within 0 and 1.
    """
    if not ordered:
        raise ValueError("no samples")
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, got {share}")
    rank = math.ceil(share * len(ordered))
    return ordered[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """Such as `21.3 (20.9-22.0)`; the median alone where there was one round."""
        middle = f"{self.median:.{digits}f}"
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(rounds: Sequence[float]) -> Spread:
    """Raises ValueError (statistics.StatisticsError) when there was no round."""
    return Spread(statistics.median(rounds), min(rounds), max(rounds))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs round by round: neighbours in time, so a slow minute hits both."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def verdict(value: float, goal: float, *, at_most: bool = True) -> str:
    """How a figure stands to its goal: `met`, or by how much it was missed."""
    met = value <= goal if at_most else value >= goal
    return "met" if met else f"missed: {value:.2f}, goal {'≤' if at_most else '≥'} {goal:g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
