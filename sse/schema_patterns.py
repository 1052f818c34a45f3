"""Patterns of askers' schemas, by RE2, with what a pattern may cost bounded. Pure.

RE2's time grows with the text, but with the pattern too, and a short pattern may be a large one:
`(?i)\\p{L}{300}` took a second to compile, and `x.{900}z` three seconds for one search in 64 KiB
(its automaton has too many states to be kept, so all of them are followed at once). So a pattern
has a largest program, all of a schema have one together, and who searches pays by program and text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import re2

from sse.schema_shape import Fault, SubSchema, child

# Of one compiled pattern, with the states that a search keeps. What does not fit is found out
# within some 20 ms.
MAX_MEMORY: Final = 1 << 20
# Instructions of all patterns of a schema; `^[a-z]{1,64}$` has 130.
MAX_PROGRAM: Final = 20_000
# A class of Unicode's has hundreds of ranges, which are worked through before the program's size is
# looked at: 1 ms each time.
MAX_CLASSES: Final = 40
# Compiled and kept: half a GB at the very worst, 5 MB with usual ones.
_MAX_PATTERNS: Final = 512
# A search follows all instructions for each character at the worst, at some 6 ns each: so many
# are one step of 5 us (`answer_schema`).
_A_STEP: Final = 1000
_CLASS: Final = re.compile(r"\\[pP]")


@lru_cache(maxsize=_MAX_PATTERNS)
def regex(pattern: str) -> Any:
    """A pattern of a schema, which is not anchored; raises re2.error for what is not linear, or
    too large.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    return re2.compile(pattern, options)


def search_steps(pattern: str, text: str) -> int:
    """What looking for a pattern in a text may cost at most."""
    size: int = regex(pattern).programsize
    return 1 + len(text) * size // _A_STEP


def bad_patterns(subschemas: Iterable[SubSchema]) -> Iterator[Fault]:
    """What of a schema's patterns can't be used, up to the first: each may take its time."""
    program, classes = 0, 0
    for pattern, at in _patterns(subschemas):
        classes += len(_CLASS.findall(pattern))
        if classes > MAX_CLASSES:
            yield at, f"There are more than {MAX_CLASSES} classes like \\p{{L}} in the patterns."
            return
        try:
            program += regex(pattern).programsize
        except re2.error as error:
            said = error.args[0] if error.args else b""
            why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            yield at, f"Is no pattern for RE2, which has no look-around or references: {why}"
            return
        if program > MAX_PROGRAM:
            text = "The patterns are too large together: their repetitions {n,m} multiply."
            yield at, text
            return


def _patterns(subschemas: Iterable[SubSchema]) -> Iterator[tuple[str, str]]:
    """Each different pattern, and where it stands first."""
    seen: set[str] = set()
    for each in subschemas:
        named = each.members.get("patternProperties", ())
        places = [(name, child(each.pointer, "patternProperties", name)) for name in named]
        if "pattern" in each.members:
            places.append((each.members["pattern"], child(each.pointer, "pattern")))
        for pattern, at in places:
            if pattern not in seen:
                seen.add(pattern)
                yield pattern, at
