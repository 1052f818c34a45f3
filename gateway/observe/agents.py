"""AI agents and crawlers: found by the names in a User-Agent, or because they say so themselves.

The names known are data, agents.toml beside this file. A request may also declare itself by
X-AI-Agent or AI-Agent-ID. What a client says there never becomes a label: one that is not known is
counted as `other`. Not here: what is done with an agent (a route may limit or refuse it).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

OTHER: Final = "other"
FILE: Final = Path(__file__).with_name("agents.toml")

# Longer ones are searched up to here: real ones are shorter, and the cache must not hold what a
# client sends by the kilobyte.
_LOOKED_AT_BYTES: Final = 512
# What a record may hold of a name that a client gave itself.
_NAME: Final = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9 ._:/@+-]{0,62}[A-Za-z0-9])?").fullmatch
_LISTED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{1,63}").fullmatch


class Saying(Protocol):
    """What a request's head says of who sends it; `ai_agent` is the value of X-AI-Agent or
    AI-Agent-ID, the first that came.
    """

    @property
    def user_agent(self) -> bytes:
        """The User-Agent field, or empty."""

    @property
    def ai_agent(self) -> bytes | None:
        """None: no such field."""


class Agents:
    """The agents known by `names`. Raises ValueError when there is none, or one is no name."""

    __slots__ = ("_any", "_known", "_names")

    def __init__(self, names: Iterable[str]) -> None:
        given = tuple(names)
        if not given or not all(map(_LISTED, given)) or OTHER in given:
            raise ValueError("expected names of agents: letters, digits, `-` and `.`")
        self._names = {name.lower().encode("ascii"): name for name in given}
        # A name counts only as a word of its own: "xGPTBot" and "Devine" are other programs.
        longest_first = sorted(self._names, key=len, reverse=True)
        words = b"|".join(map(re.escape, longest_first))
        self._any = re.compile(rb"(?<![a-z0-9-])(?:%b)(?![a-z0-9])" % words, re.IGNORECASE)
        self._known = lru_cache(maxsize=1024)(self._search)

    def __repr__(self) -> str:
        return f"<Agents names={len(self._names)}>"

    @classmethod
    def shipped(cls, file: Path = FILE) -> Agents:
        """Those of the data file. Raises OSError, and ValueError when it is not as it must be."""
        return cls(tomllib.loads(file.read_text("utf-8"))["agents"])

    @property
    def names(self) -> tuple[str, ...]:
        """All that are known."""
        return tuple(self._names.values())

    def agent_of(self, head: Saying) -> str | None:
        """The agent's name, `other` for one that only says itself that it is one, None for none.

        For figures and for a route's rules: never a text that a client chose. Answers for the last
        1024 different User-Agents are kept.
        """
        declared = head.ai_agent
        if declared is None or not declared.strip():
            return self._known(head.user_agent[:_LOOKED_AT_BYTES])
        known = self._search(declared[:_LOOKED_AT_BYTES])
        return known or self._known(head.user_agent[:_LOOKED_AT_BYTES]) or OTHER

    def name_of(self, head: Saying) -> str | None:
        """The same for a record, where an unknown agent has the name that it gave itself, if that
        is a plain one of at most 64 characters.
        """
        agent = self.agent_of(head)
        if agent != OTHER or head.ai_agent is None:
            return agent
        declared = head.ai_agent.strip()
        return declared.decode("ascii") if _NAME(declared) else OTHER

    def _search(self, text: bytes) -> str | None:
        found = self._any.search(text)
        return None if found is None else self._names[found[0].lower()]
