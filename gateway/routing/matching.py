"""What a request must be like to meet a row, besides its path: method, Host, fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.settings_patterns import Pattern
from gateway.settings_route_order import condition_order
from gateway.settings_route_rows import HeaderCondition, RouteSettings


class Head(Protocol):
    """What conditions look at in a request."""

    @property
    def host(self) -> bytes | None:
        """The value of the Host field."""

    @property
    def by_name(self) -> Mapping[bytes, Sequence[bytes]]:
        """The values of fields, by lower-cased name."""


@dataclass(frozen=True, slots=True)
class Matching:
    """The pattern of a row and its conditions; `order` is the rows' with the same pattern.

    `methods` None: any. `host` None: any; `.example.com`: the names below that. A field's value
    None: any.
    """

    pattern: Pattern
    methods: tuple[bytes, ...] | None = None
    host: bytes | None = None
    fields: tuple[tuple[bytes, bytes | None], ...] = ()
    order: tuple[int, ...] = ()

    @classmethod
    def of(cls, row: RouteSettings) -> Matching:
        """What a row of the settings says."""
        methods, host = row.methods, row.host
        return cls(
            row.pattern,
            None if methods is None else tuple(method.encode("ascii") for method in methods),
            None if host is None else host.removeprefix("*").encode("ascii"),
            tuple(map(_field, row.headers)),
            condition_order(host, row.headers),
        )

    @property
    def conditions(self) -> tuple[object, ...]:
        """The same for two rows that ask for the same."""
        return (self.host, self.fields)

    @property
    def is_conditional(self) -> bool:
        """Whether it asks for more than a path and a method."""
        return self.host is not None or bool(self.fields)

    def is_met(self, head: Head) -> bool:
        """Whether a request meets the conditions on Host and fields.

        Fields are compared without the blanks around them, which are no part of them (RFC 9110
        §5.5); of a repeated one any may be the one.
        """
        if self.host is not None and not _is_host(self.host, head.host):
            return False
        if self.fields:
            given = head.by_name
            for name, value in self.fields:
                values = given.get(name)
                if values is None:
                    return False
                if value is not None and value not in [came.strip(b" \t") for came in values]:
                    return False
        return True


def _field(condition: HeaderCondition) -> tuple[bytes, bytes | None]:
    value = condition.value
    return condition.name.encode("ascii"), None if value is None else value.encode("ascii")


def _is_host(wanted: bytes, came: bytes | None) -> bool:
    """Whether a Host value is this host, or one below it, on any port."""
    if came is None:
        return False
    host = came.lower()
    if host.startswith(b"["):
        host = host.partition(b"]")[0] + b"]"
    else:
        host = host.partition(b":")[0].removesuffix(b".")
    if wanted.startswith(b"."):
        return host.endswith(wanted) and len(host) > len(wanted)
    return host == wanted
