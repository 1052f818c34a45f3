"""What a settings file says of questions: `[questions.forward]`, and the reader of
`CALLBACK_ALLOW`.

Nothing is resolved or sent here. Files are read in `settings_file`, services in
`settings_services`; what the words mean for an answer is in `callbacks/forward.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from gateway.settings_services import ServiceSettings, canonical
from gateway.settings_values import Reader, Value, choice, text, words

PLACEHOLDERS = ("{question_id}", "{decision}")

_TABLE = "questions.forward"
_NETWORK = re.compile(r"[0-9a-f.:]*[.:][0-9a-f.:]*(/[0-9]+)?", re.IGNORECASE)
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
# A path of a URL (RFC 3986 §3.3) with placeholders; a query would be the service's own matter.
_PATH = re.compile(r"(/[A-Za-z0-9\-._~%!$&'()*+,;=:@{}/]*)")
_MAX_WORD = 64  # of a decision in a path


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Where answers go besides to their asker.

    `path` holds `{question_id}` and `{decision}`, or none of them. `approve` and `reject` are what
    stands for `{decision}`; `other` for an answer that is neither, and without it such an answer is
    not forwarded.
    """

    service: str
    method: str
    path: str
    approve: str = "approve"
    reject: str = "reject"
    other: str | None = None

    @property
    def decides(self) -> bool:
        """Whether the path says what was decided, so that an answer must be a decision."""
        return "{decision}" in self.path


def _path(value: Value) -> str:
    expected = f"a path such as /answers/{'/'.join(PLACEHOLDERS)}"
    path = text(value)
    plain = path
    for placeholder in PLACEHOLDERS:
        plain = plain.replace(placeholder, "x")
    dots = any(segment in (".", "..") for segment in plain.split("/"))
    if not _PATH.fullmatch(plain) or "{" in plain or "}" in plain or dots:
        raise value.wrong(expected)
    return path


def _word(value: Value) -> str:
    word = text(value)
    if len(word) > _MAX_WORD or word in (".", ".."):
        raise value.wrong(f"a word of at most {_MAX_WORD} characters")
    return word


def _method(value: Value) -> str:
    return choice("post", "put", "patch")(value).upper()


_KEYS: Mapping[str, Reader] = {
    "service": text,
    "method": _method,
    "path": _path,
    "approve": _word,
    "reject": _word,
    "other": _word,
}
_NEEDED = ("service", "method", "path")


def build_forward(
    table: Mapping[str, Value],
    services: Iterable[ServiceSettings],
    wanted: frozenset[str],
    warnings: list[str],
) -> ForwardSettings | None:
    """What the table `[questions.forward]` says; None when there is none.

    `services` are the registered ones, `wanted` the names that `SERVICES` limits them to (none: no
    limit). A service that `SERVICES` leaves out is left out here too, with a warning: the table may
    come from a profile. Any other service that nothing registers is an error, else every answer
    would fail a day later. Raises SettingsError.
    """
    if not table:
        return None
    read: dict[str, Any] = {}
    for key, value in table.items():
        if key == "":
            continue
        if key not in _KEYS:
            raise value.error("is unknown", f"one of {', '.join(_KEYS)}")
        read[key] = _KEYS[key](value)
    for key in _NEEDED:
        if key not in read:
            raise table[""].error(f"has no {key}", f"{', '.join(_NEEDED)}")
    forward = ForwardSettings(**read)
    if forward.approve.casefold() == forward.reject.casefold():
        raise table.get("reject", table[""]).error("is the same as approve", "two words")
    name = canonical(forward.service)
    registered = {alias: service.name for service in services for alias in service.aliases}
    if name in registered:
        return ForwardSettings(**(read | {"service": registered[name]}))
    if wanted and name not in wanted:
        warnings.append(f"{_TABLE} names {name}, which SERVICES leaves out: nothing is forwarded")
        return None
    raise table["service"].error(f"is {forward.service!r}, which is not registered", "a service")


def hosts_and_networks(value: Value) -> tuple[str, ...]:
    """Host names, addresses and CIDRs, as they were written."""
    read = words(value)
    for word in read:
        try:
            if not _NETWORK.fullmatch(word):
                raise ValueError
            ip_network(word, strict=False)
        except ValueError:
            last = word.rstrip(".").rpartition(".")[2]
            if not _NAME.fullmatch(word) or last.isdigit():
                raise value.error(
                    f"holds {word!r}", "hosts, addresses and CIDRs, such as hooks.internal"
                ) from None
    return read
