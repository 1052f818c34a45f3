"""Pages of other origins (CORS as in the Fetch standard), and what browsers are told about the
gateway's own answers.
"""

from __future__ import annotations

from tests.loading import refusal
from tests.messages import Message, answer, request
from tests.scenarios.governed import get, in_front, quotas, row, statuses
from tests.streams import subscribe, who
from tests.wire import RunningGateway

X = "/api/v1/svc/x"
HOME = "https://app.example"
ORIGINS = {"CORS_ORIGINS": f"{HOME},https://b.example:8443"}
FOREIGN = (
    "https://evil.example",
    "http://app.example",
    "https://app.example:444",
    "https://app.example.evil",
    "https://sub.app.example",
    "https://app.example/",
    "https://b.example",
    "null",
)


def from_page(origin: str) -> bytes:
    """The field with which a browser names the page's origin."""
    return b"Origin: " + origin.encode()


def preflight(path: str, origin: str, method: str = "GET", *fields: bytes) -> bytes:
    """What a browser asks before it sends what is not simple."""
    asked = b"Access-Control-Request-Method: " + method.encode()
    return request(b"OPTIONS " + path.encode(), from_page(origin), asked, *fields)


def allowed(response: Message, origin: str = HOME) -> None:
    """The page may read it, with credentials."""
    assert response.all("access-control-allow-origin") == [origin.encode()], response.head
    assert response.all("access-control-allow-credentials") == [b"true"]
    assert b"origin" in response.tokens("vary")


def not_allowed(response: Message) -> None:
    """The page may not; and no cache mistakes the answer for one to another origin."""
    named = [name for name in response.names if name.startswith(b"access-control-")]
    assert named == [], response.head
    assert b"origin" in response.tokens("vary")


async def test_a_preflight_is_answered_with_what_is_allowed() -> None:
    fields = b"Access-Control-Request-Headers: authorization,content-type"
    async with in_front(**ORIGINS, CORS_MAX_AGE=77) as (gateway, upstream):
        for origin in (HOME, "https://b.example:8443"):
            response = await gateway.ask(preflight(X, origin, "PUT", fields))
            assert response.status in (200, 204)
            allowed(response, origin)
            methods = response.tokens("access-control-allow-methods")
            assert {b"get", b"post", b"put", b"delete"} <= set(methods)
            headers = response.tokens("access-control-allow-headers")
            assert {b"authorization", b"content-type"} <= set(headers)
            assert b"*" not in methods + headers
            assert response.all("access-control-max-age") == [b"77"]
            assert len(response.all("x-request-id")) == 1
        assert upstream.requests == []


async def test_methods_and_headers_are_those_of_the_settings() -> None:
    named = {"CORS_METHODS": "GET, PURGE", "CORS_HEADERS": "X-Mine"}
    fields = b"Access-Control-Request-Headers: x-other, x-mine"
    async with in_front(**ORIGINS, **named) as (gateway, _):
        response = await gateway.ask(preflight(X, HOME, "POST", fields))
        methods = response.tokens("access-control-allow-methods")
        assert b"post" not in methods
        headers = response.tokens("access-control-allow-headers")
        assert b"x-other" not in headers
        response = await gateway.ask(preflight(X, HOME, "PURGE"))
        assert {b"get", b"purge"} <= set(response.tokens("access-control-allow-methods"))
        assert b"x-mine" in response.tokens("access-control-allow-headers")


async def test_a_preflight_of_a_foreign_page_allows_nothing_and_goes_nowhere() -> None:
    async with in_front(**ORIGINS) as (gateway, upstream):
        for origin in FOREIGN:
            response = await gateway.ask(preflight(X, origin, "PUT"))
            assert response.status < 500
            not_allowed(response)
        assert upstream.requests == []


async def test_a_preflight_takes_no_limit_and_asks_for_no_credential() -> None:
    rows = (row("/own/*", 'auth = "required"', 'methods = ["GET"]'),)
    config = "[tiers.anonymous]\nper_hour = 2\n"
    async with in_front(config, *rows, **ORIGINS) as (gateway, upstream):
        for path in (X, "/own/x", "/api/v1/events/alice", "/api/v1/questions"):
            for _ in range(3):
                response = await gateway.ask(preflight(path, HOME))
                assert (path, response.status in (200, 204)) == (path, True)
                allowed(response)
                assert not [name for name in response.names if b"ratelimit" in name]
        assert upstream.requests == []
        assert quotas(await get(gateway, X)) == {2: 1}


async def test_a_preflight_is_answered_also_while_the_service_is_ill() -> None:
    script = answer(b"ill", status=b"500 Internal Server Error")
    lines = ("breaker_failures = 1", "breaker_seconds = 60")
    async with in_front(script=script, lines=lines, **ORIGINS) as (gateway, upstream):
        assert await statuses(gateway, 2, X) == [500, 503]
        response = await gateway.ask(preflight(X, HOME))
        assert response.status in (200, 204)
        allowed(response)
        assert len(upstream.requests) == 1


async def test_answers_of_a_service_are_for_the_page_whatever_the_service_says() -> None:
    script = answer(
        b"ok",
        b"Access-Control-Allow-Origin: *",
        b"Access-Control-Allow-Credentials: false",
        b"Vary: Accept-Encoding",
    )
    async with in_front(script=script, **ORIGINS) as (gateway, upstream):
        response = await get(gateway, X, from_page(HOME))
        assert (response.status, response.body) == (200, b"ok")
        allowed(response)
        assert b"accept-encoding" in response.tokens("vary")
        assert upstream.requests[0].all("origin") == [HOME.encode()]


async def test_a_page_may_read_the_errors_of_the_gateway_too() -> None:
    rows = (row("/own/*", 'auth = "required"', 'methods = ["GET"]'),)
    config = "[tiers.anonymous]\nper_hour = 1\n"
    async with in_front(config, *rows, **ORIGINS) as (gateway, _):
        home = from_page(HOME)
        answers = [
            await get(gateway, "/own/x", home),
            await get(gateway, X, home, b"Authorization: Bearer nonsense"),
            await get(gateway, "/nowhere", home),
            await gateway.ask(request(b"POST /own/x", home, body=b"")),
            await get(gateway, X, home),
            await get(gateway, X, home),
        ]
        assert [each.status for each in answers] == [401, 401, 404, 405, 200, 429]
        for each in answers:
            allowed(each)
        exposed = set(answers[-1].tokens("access-control-expose-headers"))
        assert {b"x-request-id", b"retry-after", b"x-ratelimit-remaining"} <= exposed


async def test_a_stream_and_health_are_for_the_page_too() -> None:
    user = who("alice")
    async with in_front(**ORIGINS) as (gateway, _):
        async with subscribe(gateway, "alice", user, from_page(HOME)) as stream:
            allowed(stream.head)
        allowed(await get(gateway, "/health/live", from_page(HOME)))


async def test_a_foreign_page_gets_an_answer_that_it_may_not_read() -> None:
    async with in_front(**ORIGINS) as (gateway, _):
        for origin in FOREIGN:
            not_allowed(await get(gateway, X, from_page(origin)))
        # Who asks without an origin gets an answer that says it would differ with one.
        not_allowed(await get(gateway, X))
        two = await get(gateway, X, from_page(HOME), from_page("https://evil.example"))
        assert b"access-control-allow-origin" not in two.names or two.status == 400


async def test_an_options_that_is_no_preflight_is_the_services() -> None:
    async with in_front(**ORIGINS) as (gateway, upstream):
        response = await gateway.ask(request(b"OPTIONS " + X.encode(), from_page(HOME)))
        assert (response.status, response.body) == (200, b"ok")
        allowed(response)
        assert (await gateway.ask(request(b"OPTIONS " + X.encode()))).status == 200
        assert len(upstream.requests) == 2


async def test_without_origins_a_service_speaks_for_itself() -> None:
    script = answer(b"ok", b"Access-Control-Allow-Origin: https://other.example")
    async with in_front(script=script) as (gateway, upstream):
        response = await gateway.ask(preflight(X, HOME))
        assert response.all("access-control-allow-origin") == [b"https://other.example"]
        assert len(upstream.requests) == 1


async def test_every_origin_is_never_with_credentials() -> None:
    async with in_front(CORS_ORIGINS="*") as (gateway, _):
        for response in (
            await gateway.ask(preflight(X, HOME)),
            await get(gateway, X, from_page(HOME)),
        ):
            (origin,) = response.all("access-control-allow-origin")
            assert origin in (b"*", HOME.encode())
            assert b"access-control-allow-credentials" not in response.names


def test_an_origin_that_no_browser_sends_is_refused_at_the_start() -> None:
    for origins in ("app.example", "https://app.example/path", "ftp://a.example", f"{HOME},*"):
        assert "CORS_ORIGINS" in refusal({"CORS_ORIGINS": origins})


SECURITY = (b"x-content-type-options", b"x-frame-options", b"referrer-policy")


async def found(gateway: RunningGateway, path: str) -> set[bytes]:
    """The security fields of an answer."""
    response = await get(gateway, path)
    return {name for name in response.names if name in SECURITY}


async def test_security_fields_are_on_the_gateways_own_answers_only() -> None:
    async with in_front() as (gateway, _):
        for path in ("/nowhere", "/health/live", "/openapi.json"):
            assert b"x-content-type-options" in await found(gateway, path)
        assert await found(gateway, X) == set()
    async with in_front(SECURITY_HEADERS="off") as (gateway, _):
        for path in ("/nowhere", "/health/live", X):
            assert await found(gateway, path) == set()
