"""A decision that can't be made yet: what to wait for before asking again.

The policies decide at once; where one needs a round trip first (a key of an issuer, tokens of a
bucket), it says so by a `Pending` instead of an answer. Who asked waits for it once and asks again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Wait for `wait` once, then ask again; the second time the policy must decide.

    `wait` may be awaited once. It ends by itself within the policy's own bound, never raises but
    for being cancelled, and cancelling it stops nothing that others wait for.
    """

    wait: Awaitable[None]
    last: bool = True  # False: another policy, asked after this one, may have to wait as well
