"""What the pages below `/admin` ask of the running gateway; `assemble_admin` answers.

Figures come as they are told: dicts of JSON values, in the shapes that the OpenAPI document has.
Whatever can't be done is raised as `Failed`. Times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Figures = dict[str, object]


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit of the store: at most so many requests in a minute, an hour, a day; None: any.

    `tenant` None: it counts each caller; else the tenant as a whole. `pattern`: the paths it holds
    for, written as in a route table.
    """

    tenant: str | None
    pattern: str
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None

    def shown(self) -> Figures:
        """As the API tells it."""
        return {
            "tenant": self.tenant,
            "pattern": self.pattern,
            "requests_per_minute": self.requests_per_minute,
            "requests_per_hour": self.requests_per_hour,
            "requests_per_day": self.requests_per_day,
        }


class AdminDesk(Protocol):
    """The gateway, as far as it is run through its own API."""

    def services(self) -> list[Figures]:
        """Every service with its breaker, its endpoints and their pools."""

    def add_endpoint(self, service: str, url: str, weight: int) -> Figures:
        """The service with one endpoint more; CONFLICT when it has it already."""

    def drain_endpoint(self, service: str, url: str) -> Figures:
        """The service, of whose endpoint `url` gets no new requests."""

    def remove_endpoint(self, service: str, url: str) -> Figures:
        """The service without it; what it is doing it ends. CONFLICT when it is the last one."""

    def set_breaker(self, service: str, *, is_open: bool) -> Figures:
        """The service with its breaker held open, or closed and its window empty."""

    def buckets(self, key: int | str) -> list[Figures]:
        """How the buckets of a caller stand: of a subject (`s:…`) or an address."""

    async def rules(self) -> list[LimitRow]:
        """The limits that the store has."""

    async def put_rule(self, row: LimitRow, who: str) -> None:
        """Set the limit of this tenant and pattern; CONFLICT when there is no room for more."""

    async def delete_rule(self, tenant: str | None, pattern: str) -> None:
        """Take it away; NOT_FOUND when there is none."""

    async def connections(self, most: int) -> Figures:
        """Live connections: how many of each kind, and `most` of them one by one."""

    async def revoke(self, credential: str, expires_at: float | None, who: str) -> None:
        """Refuse a token (by its `jti`) or an API key (by its id) from now on, here at once, until
        it would have ended anyway; None: for ever.
        """

    def reload(self) -> Figures:
        """Read the configuration again, all of it or, when it is wrong, nothing: UNPROCESSABLE."""
