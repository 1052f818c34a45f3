"""What must hold in a fuzz run, over what the backend saw and what the clients heard. Pure.

- The backend sees no request that a strict reading of the client's bytes does not hold, and none
  twice (twice only where it closed without a word on a method that may be repeated).
- A body it sees whole is the body that was sent whole.
- A client hears answers to its own requests only, never bytes from outside an answer's framing,
  and an answer that the backend broke off does not end well.
- Every connection ends.
"""

from __future__ import annotations

import re
from collections import Counter

from bench.answers import CUT, answer_for, token
from bench.framing import Message, read_requests
from bench.mutations import PREFIX, Case

_REPEATABLE = (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE")
_NAMED = re.compile(rb"answer-to:(\w+);")

Key = tuple[bytes, bytes]  # method and the target that the backend should see


class Generation:
    """What is expected of a batch of cases."""

    def __init__(self) -> None:
        self.allowed: Counter[Key] = Counter()
        self.bodies: dict[Key, list[bytes]] = {}


class Judge:
    """Collects faults; told of each case before it is played, of each request and each answer."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.requests = 0  # well-formed ones sent
        self.seen = 0
        self._generations = [Generation()]
        self._tokens: dict[tuple[int, int], set[bytes]] = {}

    def turn_page(self) -> None:
        """Forgets the batch before the last: what it set off has ended by now."""
        self._generations = [Generation(), self._generations[0]]

    def expect(self, case: Case) -> None:
        """A case that is about to be played."""
        page, names = self._generations[0], set()
        for message in read_requests(case.data):
            tail = tail_of(message.target)
            if tail is None or not message.host_is_sound:
                continue
            key = (message.method, tail)
            names.add(token(*key))
            page.allowed[key] += 2 if _may_repeat(*key) else 1
            self.requests += 1
            if message.complete:
                page.bodies.setdefault(key, []).append(message.body)
        self._tokens[case.seed, case.number] = names

    def saw(self, message: Message) -> None:
        """A request that reached the backend, whole or broken off."""
        self.seen += 1
        key = (message.method, message.target)
        page = next((page for page in self._generations if key in page.allowed), None)
        if page is None:
            self.faults.append(f"the backend saw {key!r}, which nobody sent")
            return
        page.allowed[key] -= 1
        if page.allowed[key] < 0:
            self.faults.append(f"the backend saw {key!r} too often")
        if message.complete and message.body not in page.bodies.get(key, []):
            self.faults.append(f"the backend saw {key!r} whole, with another body than was sent")
        if not message.host_is_sound:
            self.faults.append(f"the backend saw {key!r} without one Host")

    def heard(self, case: Case, data: bytes | None) -> None:
        """All that a client received; None when its connection did not end."""
        where = f"case {case.number} of seed {case.seed}"
        own = self._tokens.pop((case.seed, case.number))
        if data is None:
            self.faults.append(f"{where}: the connection did not end")
            return
        if data and not data.startswith(b"HTTP/1.1 "):
            self.faults.append(f"{where}: the answer begins with {data[:40]!r}")
        for name in _NAMED.findall(data):
            if name not in own:
                self.faults.append(f"{where}: was given the answer to {name.decode()}")
        if CUT in data and data.endswith(b"\r\n0\r\n\r\n"):
            self.faults.append(f"{where}: an answer that was cut looks whole")


def tail_of(target: bytes) -> bytes | None:
    """The target as the backend should see it; None for a path that is not the bench service's."""
    found = re.match(rb"(?:https?://[^/?#]*)?" + PREFIX + rb"(?=[/?]|$)", target, re.IGNORECASE)
    if found is None:
        return None
    tail = target[found.end() :]
    return tail if tail.startswith(b"/") else b"/" + tail


def _may_repeat(method: bytes, tail: bytes) -> bool:
    return method in _REPEATABLE and answer_for(method, tail).kind == "silent"
