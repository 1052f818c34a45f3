"""The Prefer field (RFC 7240): how a client would like its request dealt with. Pure.

Here are `respond-async` (§4.1) and `wait` (§4.3), which the gateway knows. A preference is a wish:
what is unknown or can't be read is passed over, and never a reason to refuse a request (§2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

# §2: token [ BWS "=" BWS word ], then parameters behind semicolons; a word is a token or a quoted
# text, in which commas separate nothing (RFC 9110 §5.6.4). A quote that is not closed reaches to
# the end. Possessive, so that a field of nothing but quotes is still read once only.
_SEPARATORS: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?$)|,', re.DOTALL)
_PREFERENCE: Final = re.compile(
    r"""[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+"""
    r"""(?:=[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++|"(?:[^"\\]|\\.)*+")?[ \t]*+)?(?:;|$)""",
    re.DOTALL,
).match
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_SECONDS: Final = re.compile(r"[0-9]+").fullmatch
# More than anyone waits; RFC 9110 §1.2.2 (delta-seconds) lets larger numbers stand for the largest.
_MOST_SECONDS: Final = 2_147_483_648
_MOST_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers: an answer before the work is done (`respond_async`), after so many
    seconds at most (`wait`; None: it does not say).
    """

    respond_async: bool = False
    wait: int | None = None


def preferences(values: Iterable[str]) -> Preferences:
    """What the Prefer fields of a request say; of a preference that is repeated the first instance
    counts (RFC 7240 §2).
    """
    said: dict[str, str] = {}
    for value in values:
        for member in _members(value):
            found = _PREFERENCE(member)
            if found is not None:
                said.setdefault(found[1].lower(), _text(found[2]))
    return Preferences(said.get("respond-async") == "", _seconds(said.get("wait", "")))


def _members(value: str) -> Iterator[str]:
    begin = 0
    for found in _SEPARATORS.finditer(value):
        if found[0] == ",":
            yield value[begin : found.start()]
            begin = found.end()
    yield value[begin:]


def _text(word: str | None) -> str:
    """A word without its quotes; none is as good as an empty one (RFC 7240 §2)."""
    if word is None or not word.startswith('"'):
        return word or ""
    return _QUOTED_PAIR.sub(r"\1", word[1:-1])


def _seconds(text: str) -> int | None:
    if not _SECONDS(text):
        return None
    digits = text.lstrip("0") or "0"
    return _MOST_SECONDS if len(digits) > _MOST_DIGITS else min(int(digits), _MOST_SECONDS)
