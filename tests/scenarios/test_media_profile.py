"""The media profile as it is shipped: every row to its service, who may, how often, and what when
a service is ill. Only the addresses of the services are the test's own.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.messages import Message, answer, assert_error, request
from tests.processes import ROOT, run_gateway
from tests.scenarios.governed import PROXIES, Mood, at, get, health_of, mood, quotas
from tests.streams import SECRET, metric, sign, who
from tests.wire import RunningGateway, ScriptedUpstream, start_gateway

MEDIA = ROOT / "config" / "media.toml"
PUBLIC = {
    "content": "discovery",
    "movies": "discovery",
    "tv": "discovery",
    "search": "discovery",
    "discover": "discovery",
    "genres": "discovery",
    "recommendations": "sona",
}
OWN = {
    "user/profile": "auth",
    "user/preferences": "auth",
    "user/watchlist": "sync",
    "user/history": "sync",
}
NAMES = ("discovery", "sona", "sync", "auth")
TIERS = {
    "anonymous": (5, 100, 10),
    "free": (10, 200, 20),
    "pro": (50, 1000, 100),
    "enterprise": (200, 5000, 400),
}
ALICE = who("alice", tier="enterprise", tenant="acme")
FAILED = answer(b"ill", status=b"500 Internal Server Error")
OK = answer(b"well")


class Media:
    """The gateway with its four services."""

    def __init__(self, gateway: RunningGateway, services: dict[str, ScriptedUpstream]) -> None:
        self.gateway = gateway
        self.services = services
        self._addresses = (f"192.0.{high}.{low}" for high in range(256) for low in range(1, 255))

    async def ask(self, path: str, *fields: bytes, method: bytes = b"GET") -> Message:
        """One request, each from an address that asked nothing before."""
        fields = (at(next(self._addresses)), *fields)
        return await self.gateway.ask(request(method + b" " + path.encode(), *fields))

    def took(self) -> list[tuple[str, str]]:
        """Service and target of every request that went through since the last look."""
        found = [
            (name, message.target.decode())
            for name, upstream in self.services.items()
            for message in upstream.requests
        ]
        for upstream in self.services.values():
            upstream.requests.clear()
        return found


@contextlib.asynccontextmanager
async def media(**environ: Any) -> AsyncIterator[Media]:
    async with contextlib.AsyncExitStack() as stack:
        services = {
            name: await stack.enter_async_context(ScriptedUpstream(Mood(answer(name.encode()))))
            for name in NAMES
        }
        names: dict[str, Any] = {
            f"{name.upper()}_URL": upstream.url for name, upstream in services.items()
        }
        names |= {"GATEWAY_CONFIG": str(MEDIA), "JWT_SECRET": SECRET, "RATE_LIMIT": None} | PROXIES
        gateway = await stack.enter_async_context(start_gateway(**(names | environ)))
        yield Media(gateway, services)


async def test_every_row_leads_to_its_service_with_path_and_query_as_they_came() -> None:
    async with media() as running:
        for name, owner in (PUBLIC | OWN).items():
            for rest in (
                "",
                "/",
                "/7",
                "/a%2Cb/c;v=1//d",
                "?q=a+b%20c&page=2",
                "/x?",
                "/%E2%82%AC",
            ):
                target = f"/api/v1/{name}{rest}"
                response = await running.ask(target, ALICE)
                assert (target, response.status, response.body) == (target, 200, owner.encode())
                assert running.took() == [(owner, target)]


async def test_the_catalogue_is_for_everybody_and_a_bad_token_is_still_refused() -> None:
    async with media() as running:
        for name, owner in PUBLIC.items():
            target = f"/api/v1/{name}/1"
            assert (await running.ask(target)).status == 200
            assert (await running.ask(target, ALICE)).status == 200
            assert running.took() == [(owner, target)] * 2
            refused = await running.ask(target, b"Authorization: Bearer nonsense")
            assert_error(refused, 401, "AUTH_FAILED")
            told = refused.get("www-authenticate") or b""
            assert told.startswith(b"Bearer"), told
            assert b'error="invalid_token"' in told
            assert running.took() == []


async def test_what_is_the_users_own_needs_a_good_token() -> None:
    async with media() as running:
        for name, owner in OWN.items():
            for target in (f"/api/v1/{name}", f"/api/v1/{name}/1"):
                refused = await running.ask(target)
                assert_error(refused, 401, "UNAUTHORIZED")
                told = refused.get("www-authenticate") or b""
                assert told.startswith(b"Bearer"), told
                assert b"error=" not in told  # RFC 6750 §3.1
                expired = who("alice", seconds=-3600)
                refused = await running.ask(target, expired)
                assert_error(refused, 401, "AUTH_FAILED")
                assert b'error="invalid_token"' in (refused.get("www-authenticate") or b"")
                assert running.took() == []
                assert (await running.ask(target, ALICE)).status == 200
                assert running.took() == [(owner, target)]


ROUND_ABOUT = [
    "/api/v1/user/%70rofile",
    "/api/v1/%75ser/profile",
    "/%61pi/v1/user/watchlist",
    "/api/v1//user/profile",
    "//api//v1/user//history",
    "/api/v1/user;v=1/profile",
    "/api/v1/user/profile;jsessionid=1",
    "/api/v1/user/;/profile",
    "/api/v1/user/profile;/x",
    "http://gateway.test/api/v1/user/profile",
    "/api/v1/user/profile?x=/api/v1/movies/",
    "/api/v1;/user/preferences",
]


async def test_no_spelling_walks_round_a_row_of_the_users_own() -> None:
    async with media() as running:
        for target in ROUND_ABOUT:
            for method in (b"GET", b"HEAD", b"POST", b"DELETE"):
                refused = await running.ask(target, method=method)
                assert (target, refused.status) == (target, 401)
            assert running.took() == []
            assert (await running.ask(target, ALICE)).status == 200
            path = target.removeprefix("http://gateway.test")
            assert [target for _, target in running.took()] == [path]


async def test_no_service_is_reachable_beside_its_rows() -> None:
    targets = [
        f"/api/v1/{name}{rest}"
        for name in (*NAMES, "auth_service", "auth-service", "DISCOVERY")
        for rest in ("", "/", "/api/v1/user/profile", "/x?y")
    ]
    targets += [
        "/api/v1/%64iscovery/x",
        "/api/v1//discovery/x",
        "//api/v1/discovery/x",
        "/api/v1/discovery;v=1/x",
        "/api/v1;/discovery/x",
        "/api/v1/;/discovery/x",
        "http://gateway.test/api/v1/discovery/x",
        "/api/v1/user",
        "/api/v1/user/",
        "/api/v1/user/settings",
        "/api/v1/userprofile",
        "/api/v1/moviesx",
        "/api/v1/contents/1",
        "/api/v2/movies/1",
        "/movies/1",
        "/",
    ]
    async with media() as running:
        for target in targets:
            refused = await running.ask(target, ALICE)
            assert (target, refused.status) == (target, 404)
            assert running.took() == []


async def test_a_path_that_leads_elsewhere_is_refused() -> None:
    targets = [
        "/api/v1/movies/../user/profile",
        "/api/v1/movies/..;/user/profile",
        "/api/v1/movies/.;a=b/7",
        "/api/v1/movies/%2e%2e/user/profile",
        "/api/v1/movies/..%2fuser/profile",
        "/api/v1/movies%2f..%2fuser",
        "/api/v1/movies/%252e%252e/user/profile",
        "/api/v1/movies/..%255cuser",
        "/api/v1/movies\\..\\user\\profile",
        "/api/v1/movies/%00",
    ]
    async with media() as running:
        for target in targets:
            refused = await running.ask(target, ALICE)
            assert (target, refused.status) == (target, 400)
            assert_error(refused, 400, "BAD_REQUEST")
            assert running.took() == []


async def test_a_tier_has_its_figures_in_both_families_of_fields() -> None:
    async with media() as running:
        for tier, spent in itertools.product(TIERS, (1, 2)):
            _, minute, burst = TIERS[tier]
            fields = () if tier == "anonymous" else (who(tier, tier=tier),)
            address = at("198.51.100.1")
            began = time.time()
            response = await get(running.gateway, "/api/v1/movies/1", address, *fields)
            assert response.status == 200
            left = quotas(response)
            assert set(left) == {burst, minute}
            # Tokens come back meanwhile: 83 a second at the largest tier.
            assert minute - spent <= left[minute] < minute
            assert burst - spent <= left[burst] < burst
            # They speak of the bucket with the smallest share left.
            assert response.get("x-ratelimit-limit") == b"%d" % burst
            assert response.get("x-ratelimit-remaining") == b"%d" % left[burst]
            reset = int(response.get("x-ratelimit-reset") or b"0")
            assert began - 1 <= reset <= time.time() + 3
            assert b"w=60" in (response.get("ratelimit-policy") or b"")


@pytest.mark.parametrize("tier", ["anonymous", "free", "pro"])
async def test_a_tiers_burst_is_admitted_and_hardly_more(tier: str) -> None:
    per_second, _, burst = TIERS[tier]
    fields = () if tier == "anonymous" else (who("alice", tier=tier),)
    async with media() as running, running.gateway.connect() as client:
        began = time.monotonic()
        asked = burst + 20
        client.send(request(b"GET /api/v1/movies/1", *fields) * asked)
        answers = [await client.response() for _ in range(asked)]
        most = burst + per_second * (time.monotonic() - began) + 1
        admitted = [each for each in answers if each.status == 200]
        assert burst <= len(admitted) <= most
        refused = [each for each in answers if each.status != 200]
        assert refused or most > asked
        for each in refused:
            error = assert_error(each, 429, "RATE_LIMITED")
            assert quotas(each)[burst] == 0
            # The next token is there within a second; fields count whole seconds.
            assert each.get("retry-after") == b"1"
            assert error["retry_after"] == 1
        assert len(running.took()) == len(admitted)


async def test_a_subject_is_counted_wherever_it_asks_and_others_are_not() -> None:
    async with media() as running:
        for spent, address in enumerate(("192.0.2.1", "192.0.2.2"), 1):
            response = await get(
                running.gateway, "/api/v1/movies/1", at(address), who("bob", tier="free")
            )
            assert quotas(response)[200] == 200 - spent
        response = await get(running.gateway, "/api/v1/tv", at(address), who("carol", tier="free"))
        assert quotas(response)[200] == 199
        assert quotas(await get(running.gateway, "/api/v1/tv", at(address)))[100] == 99


async def state_of(running: Media, owner: str) -> str:
    """The state of a service's breaker, as `/health` shows it."""
    state: str = (await health_of(running.gateway, owner))["breaker"]["state"]
    return state


async def ask_times(running: Media, owner: str, script: bytes, count: int) -> list[int]:
    """So many requests to a service that answers this; the statuses."""
    mood(running.services[owner]).says(script)
    path = next(path for path, name in (PUBLIC | OWN).items() if name == owner)
    data = request(f"GET /api/v1/{path}/1".encode(), who("ops", tier="enterprise"))
    async with running.gateway.connect() as client:
        return [(await client.ask(data)).status for _ in range(count)]


# Service, failures that open it, seconds that it stays open, and beside how many good answers their
# share is too small, until there are two failures more.
BREAKERS = [("discovery", 20, 3, 21), ("sona", 10, 2, 16), ("sync", 10, 2, 11), ("auth", 10, 2, 11)]


@pytest.mark.parametrize(("owner", "failures", "seconds", "good"), BREAKERS)
async def test_a_breaker_opens_at_its_figures(
    owner: str, failures: int, seconds: int, good: int
) -> None:
    async with media() as running:
        with running.gateway.stopped_clock() as time:
            assert await ask_times(running, owner, FAILED, failures - 1) == [500] * (failures - 1)
            assert await state_of(running, owner) == "closed"
            assert await ask_times(running, owner, FAILED, 1) == [500]
            running.took()
            path = next(path for path, name in (PUBLIC | OWN).items() if name == owner)
            refused = await running.ask(f"/api/v1/{path}/1", ALICE)
            error = assert_error(refused, 503, "CIRCUIT_BREAKER_OPEN")
            assert error["retry_after"] == seconds
            assert refused.get("retry-after") == b"%d" % seconds
            time.pass_by(seconds - 0.01)
            assert (await running.ask(f"/api/v1/{path}/1", ALICE)).status == 503
            assert running.took() == []
        # What `/health` says goes by its own clock, on which the time may be over.
        assert await state_of(running, owner) in ("open", "half_open")
        for other in NAMES:
            if other != owner:
                assert await state_of(running, other) == "closed"
                assert await ask_times(running, other, OK, 1) == [200]


async def test_a_breaker_stays_closed_while_failures_are_a_small_share() -> None:
    async with media() as running:
        for owner, failures, _, good in BREAKERS:
            with running.gateway.stopped_clock():
                assert await ask_times(running, owner, OK, good) == [200] * good
                assert await ask_times(running, owner, FAILED, failures) == [500] * failures
                assert (owner, await state_of(running, owner)) == (owner, "closed")
                *_, last = await ask_times(running, owner, FAILED, 3)
                assert (owner, last) == (owner, 503)


async def test_a_breaker_closes_again_when_the_service_is_well_after_its_time_out() -> None:
    async with media() as running:
        with running.gateway.stopped_clock() as time:
            await ask_times(running, "sona", FAILED, 10)
            assert await ask_times(running, "sona", OK, 3) == [503] * 3
            time.pass_by(2)
            assert await ask_times(running, "sona", OK, 10) == [200] * 10
        assert await state_of(running, "sona") == "closed"
        changes = [
            await metric(
                running.gateway, f'gateway_breaker_changes_total{{service="sona",to="{to}"}}'
            )
            for to in ("open", "half_open", "closed")
        ]
        assert changes == [1, 1, 1]


async def test_answers_that_are_the_clients_fault_open_no_breaker() -> None:
    async with media() as running:
        missing = answer(b"none", status=b"404 Not Found")
        assert await ask_times(running, "sona", missing, 30) == [404] * 30
        assert await state_of(running, "sona") == "closed"


async def test_services_learn_who_asks_from_the_gateway_alone() -> None:
    forged = (
        b"X-User-ID: root",
        b"x-tenant-id: evil",
        b"X-User-Tier: enterprise",
        b"X_User_ID: root",
        b"X-User_Tier: pro",
        b"X.Tenant.ID: evil",
        b"Connection: X-User-ID, X-User-Tier, X-Request-ID",
    )
    async with media() as running:
        user = who("alice", tier="pro", tenant="acme")
        assert (await running.ask("/api/v1/user/profile", user, *forged)).status == 200
        (told,) = running.services["auth"].requests
        assert told.all("x-user-id") == [b"alice"]
        assert told.all("x-tenant-id") == [b"acme"]
        assert told.all("x-user-tier") == [b"pro"]
        assert not {b"x_user_id", b"x-user_tier", b"x.tenant.id"} & told.names
        assert (await running.ask("/api/v1/movies/1", *forged)).status == 200
        (told,) = running.services["discovery"].requests
        assert told.all("x-user-id") == []
        assert told.all("x-tenant-id") == []
        assert told.all("x-user-tier") in ([], [b"anonymous"])


async def test_every_answer_carries_the_request_id_that_the_service_saw() -> None:
    async with media() as running:
        response = await running.ask("/api/v1/search?q=x", b"X-Request-ID: my-own-1")
        assert response.all("x-request-id") == [b"my-own-1"]
        (told,) = running.services["discovery"].requests
        assert told.all("x-request-id") == [b"my-own-1"]
        response = await running.ask("/api/v1/tv", b"X-Request-ID: bad id")
        (made,) = response.all("x-request-id")
        assert told is not running.services["discovery"].requests[-1]
        assert running.services["discovery"].requests[-1].all("x-request-id") == [made]
        for refused in (await running.ask("/api/v1/user/profile"), await running.ask("/nowhere")):
            assert len(refused.all("x-request-id")) == 1


async def test_a_record_names_route_service_and_user() -> None:
    async with media() as running:
        await running.ask("/api/v1/user/history/3?secret=1", ALICE)
        (record,) = await running.gateway.records()
        assert (record["service"], record["user_id"], record["tenant"]) == ("sync", "alice", "acme")
        assert (record["method"], record["path"], record["status"]) == (
            "GET",
            "/api/v1/user/history/3",
            200,
        )
        assert "history" in record["route"]
        assert "secret" not in str(record.get("query"))
        assert sign()[:20] not in str(record)


def test_the_profile_listens_on_8080_and_check_finds_nothing_wrong() -> None:
    done = run_gateway("check", GATEWAY_CONFIG=str(MEDIA), PORT="")
    assert (done.returncode, done.stderr) == (0, "")
    assert ":8080" in done.stdout
    for name, port in zip(NAMES, (8081, 8082, 8083, 8084), strict=True):
        assert name in done.stdout
        assert f"http://127.0.0.1:{port}" in done.stdout


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/api/v1/user/profile", ["8084/api/v1/user/profile", "required", "10 failures", "50%"]),
        ("/api/v1/recommendations/x?a=b", ["8082/api/v1/recommendations/x?a=b", "optional", "40%"]),
    ],
)
def test_routes_tells_what_a_request_would_meet(path: str, wanted: list[str]) -> None:
    done = run_gateway("routes", "GET", path, GATEWAY_CONFIG=str(MEDIA), JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    for each in (*wanted, *TIERS, "media.toml:"):
        assert each in done.stdout, done.stdout
