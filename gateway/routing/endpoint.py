"""An endpoint: one address that a service is reached at, and how it stands.

Standing is written by the rotation alone (rotation.py); here is only what is known. What is known
of an endpoint's connections lives with its pool.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, Literal

from gateway.settings import EndpointUrl

State = Literal["unknown", "healthy", "unhealthy", "ejected", "draining"]
UNKNOWN: Final = "unknown"  # nobody asked it yet, or not since it was let in again
HEALTHY: Final = "healthy"
UNHEALTHY: Final = "unhealthy"  # by active checks
EJECTED: Final = "ejected"  # by its failures in a row
DRAINING: Final = "draining"  # by hand: no new requests, those under way end


class Endpoint:
    """What each request to it needs, and what the choice among several needs. Two are the same
    only if they are one object.
    """

    __slots__ = (
        "base_path",
        "checks",
        "credit",
        "ejected_until",
        "ejections",
        "failures",
        "host_line",
        "key",
        "last_error",
        "leaving",
        "name",
        "outstanding",
        "returned_at",
        "seed",
        "service",
        "share",
        "slow_since",
        "state",
        "url",
        "weight",
    )

    def __init__(self, service: str, url: EndpointUrl, weight: int = 1) -> None:
        self.service = service
        self.url = url
        self.name = str(url)  # as records and `/health` write it
        self.key = f"{service} {url}"  # its pool's: two services may share an address, not a pool
        self.host_line = b"Host: %b\r\n" % url.authority.encode("ascii")
        self.base_path = url.base_path.encode("ascii")
        self.weight = weight
        self.outstanding = 0  # requests under way
        self.state: State = UNKNOWN
        self.leaving = False  # draining, and then forgotten
        self.last_error: str | None = None  # of the last active check, None when it passed
        # For the balancers: the weight as it counts now, turns owed, and where it stands for keys.
        self.share = float(weight)
        self.credit = 0.0
        self.seed = int.from_bytes(blake2b(self.name.encode(), digest_size=8).digest(), "big")
        # For the rotation: failures in a row, checks in a row (bad ones below 0), ejections.
        self.failures = 0
        self.checks = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.returned_at = 0.0
        self.slow_since: float | None = None  # since when its share grows

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} {self.state} outstanding={self.outstanding}>"

    @property
    def available(self) -> bool:
        """Whether it takes new requests."""
        return self.state is UNKNOWN or self.state is HEALTHY
