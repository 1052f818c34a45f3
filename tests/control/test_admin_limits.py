"""The admin API and limits: the buckets of a caller, and rules that are set and taken away."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.limit_rules import default_rule
from gateway.policy.limits import Limits, Verdict
from gateway.policy.ratelimit import address_key
from gateway.settings_values import RateLimit
from tests.control.administering import NOW, RULES, Site


def verdict_of(limits: Limits, *ask: Any) -> Verdict:
    """What the limits decide, which in memory they do at once."""
    verdict = limits.check(*ask)
    assert isinstance(verdict, Verdict)
    return verdict


async def test_the_buckets_of_a_caller_are_shown(site: Site) -> None:
    limits = site.parts.limits
    assert limits is not None
    limits.check("s:alice", "anonymous", None, "/x", (), 4, NOW, 1e9)
    limits.check(address_key("192.0.2.1"), "anonymous", None, "/x", (), 1, NOW, 1e9)
    found = await site.ok("GET", "/admin/limits?subject=alice")
    rule = default_rule(RateLimit(10, 60))
    assert found == {
        "subject": "alice",
        "buckets": [
            {
                "rule": rule.name,
                "bucket": rule.buckets[0].name,
                "quota": 10,
                "window_seconds": 60,
                "remaining": 6,
                "reset_seconds": 24.0,
            }
        ],
    }
    found = await site.ok("GET", "/admin/limits?address=::ffff:192.0.2.1")
    assert [bucket["remaining"] for bucket in found["buckets"]] == [9]
    assert (await site.ok("GET", "/admin/limits?tenant=acme")) == {"tenant": "acme", "buckets": []}
    site.parts.limits = None
    assert (await site.ok("GET", "/admin/limits?subject=alice"))["buckets"] == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?other=x",
        "?subject=a&address=::1",
        "?address=nowhere",
        "?subject=",
        f"?tenant={'x' * 256}",
        "?subject=a&subject=b",
    ],
)
async def test_buckets_are_those_of_one_caller(site: Site, query: str) -> None:
    assert (await site.refused("GET", f"/admin/limits{query}"))[:2] == (400, "BAD_REQUEST")


async def test_a_limit_is_set_replaced_listed_and_taken_away(site: Site) -> None:
    limits = site.parts.limits
    assert limits is not None
    row = {"tenant": "acme", "pattern": "/api/v1/search*", "requests_per_minute": 2}
    whole = {"requests_per_hour": None, "requests_per_day": None} | row
    assert await site.ok("PUT", RULES, row) == whole
    assert await site.ok("PUT", RULES, row | {"requests_per_minute": 1}) == whole | {
        "requests_per_minute": 1
    }
    every = {"pattern": "/*", "requests_per_day": 1000}
    await site.ok("PUT", RULES, every)
    found = (await site.ok("GET", RULES))["rules"]
    assert [(each["tenant"], each["pattern"]) for each in found] == [
        ("acme", "/api/v1/search*"),
        (None, "/*"),
    ]
    # It holds here at once.
    ask = ("s:alice", "anonymous", "acme", "/api/v1/search", (), 1, NOW, 1e9)
    admitted = [verdict_of(limits, *ask).admitted for _ in range(2)]
    assert admitted == [True, False]
    gone = await site.ok("DELETE", RULES, {"tenant": "acme", "pattern": "/api/v1/search*"})
    assert gone["status"] == "deleted"
    assert verdict_of(limits, *ask).admitted
    await site.ok("DELETE", f"{RULES}?pattern=/*")
    assert (await site.ok("GET", RULES))["rules"] == []
    refused = await site.refused("DELETE", RULES, {"tenant": "acme", "pattern": "/x"})
    assert refused[:2] == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("row", "pointers"),
    [
        ({"pattern": "/x"}, [""]),
        ({"requests_per_minute": 1}, ["/pattern"]),
        ({"pattern": "x", "requests_per_minute": 1}, ["/pattern"]),
        ({"pattern": "/a*b", "requests_per_minute": 1}, ["/pattern"]),
        ({"pattern": "/" + "x" * 1024, "requests_per_minute": 1}, ["/pattern"]),
        ({"pattern": "/x", "requests_per_minute": 0}, ["/requests_per_minute"]),
        ({"pattern": "/x", "requests_per_hour": True}, ["/requests_per_hour"]),
        ({"pattern": "/x", "requests_per_day": 1.5}, ["/requests_per_day"]),
        ({"pattern": "/x", "requests_per_day": 10**9 + 1}, ["/requests_per_day"]),
        ({"pattern": "/x", "tenant": "", "requests_per_day": 1}, ["/tenant"]),
        ({"pattern": "/x", "tenant": "a\nb", "requests_per_day": 1}, ["/tenant"]),
        ({"pattern": "/x", "tenant": 7, "burst": 1, "a/b~c": 1}, ["/tenant", "/burst", "/a~1b~0c"]),
    ],
)
async def test_a_limit_that_is_none_is_refused_by_pointers(
    site: Site, row: dict[str, object], pointers: list[str]
) -> None:
    status, code, details = await site.refused("PUT", RULES, row)
    assert (status, code, list(details)) == (422, "UNPROCESSABLE", pointers)
    assert (await site.ok("GET", RULES))["rules"] == []


async def test_a_full_table_of_limits_is_a_conflict(site: Site) -> None:
    rules = site.parts.rules
    rules._max_rules = 1  # the bound itself is tested with the store
    await site.ok("PUT", RULES, {"pattern": "/a", "requests_per_day": 1})
    refused = await site.refused("PUT", RULES, {"pattern": "/b", "requests_per_day": 1})
    assert refused[:2] == (409, "CONFLICT")
