"""Rows of routes: which row a request meets, and what the row does to it and to its answer."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.messages import answer, assert_error, chunks, request
from tests.processes import run_gateway
from tests.scenarios.governed import get, governed, in_front, row, service, statuses
from tests.streams import metric, who
from tests.wire import Link, RunningGateway, ScriptedUpstream

ALICE = who("alice")


def named(path: str, name: str, *lines: str) -> str:
    """A row that tells the service which one it was."""
    return row(path, f'request_headers = {{ set = {{ X-Row = "{name}" }} }}', *lines)


async def met(gateway: RunningGateway, upstream: ScriptedUpstream, data: bytes) -> str:
    """The row that a request met, or the status without one."""
    before = len(upstream.requests)
    response = await gateway.ask(data)
    if len(upstream.requests) == before:
        return str(response.status)
    assert response.status == 200
    return (upstream.requests[-1].get("x-row") or b"none").decode()


def asking(
    target: str, *fields: bytes, method: str = "GET", host: bytes = b"gateway.test"
) -> bytes:
    """A request."""
    return request(f"{method} {target}".encode(), *fields, host=host)


async def test_kinds_of_matches_and_the_more_exact_one_wins() -> None:
    rows = (
        named("/shop/*", "all"),
        named("/shop/:kind/:id", "two"),
        named("/shop/books/:id", "book"),
        named("/shop/books/new", "new"),
        named("/shop/books/*", "books"),
        named("/shop/:kind", "kind"),
        named("/files/*rest", "rest"),
        named("/exact", "exact"),
    )
    expected = {
        "/shop": "all",
        "/shop/": "all",
        "/shop/books/new": "new",
        "/shop/books/new/": "books",
        "/shop/books/7": "book",
        "/shop/books/7/pages": "books",
        "/shop/cars": "kind",
        "/shop/cars/7": "two",
        "/shop/cars/7/doors": "all",
        "/shopping": "404",
        "/files/a": "rest",
        "/files/a/b/c": "rest",
        "/exact": "exact",
        "/exact?a=b": "exact",
        "/exact/below": "404",
        "/Exact": "404",
    }
    async with in_front("", *rows) as (gateway, upstream):
        got = {path: await met(gateway, upstream, asking(path)) for path in expected}
        # Whether a slash at the end is one more segment is left open where rows of one depth meet.
        assert got.pop("/shop/books/new/") in ("new", "books", "book")
        expected.pop("/shop/books/new/")
        assert got == expected


async def test_the_order_of_the_rows_is_of_no_account() -> None:
    rows = [named("/a/*", "all"), named("/a/:x", "one"), named("/a/b", "exact")]
    for order in (rows, rows[::-1]):
        async with in_front("", *order) as (gateway, upstream):
            found = [await met(gateway, upstream, asking(f"/a/{x}")) for x in ("b", "c", "c/d")]
            assert found == ["exact", "one", "all"]


async def test_rows_of_one_path_are_told_apart_by_method_and_the_rest_is_405() -> None:
    rows = (
        named("/things", "read", 'methods = ["GET"]'),
        named("/things", "write", 'methods = ["POST", "PUT"]'),
    )
    async with in_front("", *rows) as (gateway, upstream):
        for method, wanted in {"GET": "read", "POST": "write", "PUT": "write"}.items():
            assert await met(gateway, upstream, asking("/things", method=method)) == wanted
        count = len(upstream.requests)
        for method in ("DELETE", "PATCH", "PURGE"):
            refused = await gateway.ask(asking("/things", method=method))
            assert_error(refused, 405, "METHOD_NOT_ALLOWED")
            assert {b"get", b"post", b"put"} <= set(refused.tokens("allow"))
        assert len(upstream.requests) == count


async def test_what_a_row_matches_never_falls_through_to_the_open_line() -> None:
    rows = (
        row("/api/v1/svc/admin/*", 'methods = ["GET"]', 'auth = "scope:boss"'),
        named("/api/v1/svc/special", "special"),
        row("/api/v1/svc/hosted", 'host = "a.example"'),
    )
    boss = who("root", "boss")
    spelled = ("admin", "%61dmin", "/admin", "admin;a=b", ";/admin", "admin/x/y", "%61%64min//x")
    async with in_front("", *rows) as (gateway, upstream):
        for each in spelled:
            for fields, method, status in (
                ((), "GET", 401),
                ((ALICE,), "GET", 403),
                ((boss,), "POST", 405),
            ):
                refused = await gateway.ask(asking(f"/api/v1/svc/{each}", *fields, method=method))
                assert (each, refused.status) == (each, status)
        assert (await get(gateway, "/api/v1/svc/hosted")).status == 404
        assert upstream.requests == []
        for each in spelled:
            assert (await get(gateway, f"/api/v1/svc/{each}", boss)).status == 200
            assert upstream.requests[-1].target.decode() == f"/api/v1/svc/{each}"
        # Beside the rows the open line goes on, without its prefix.
        assert await met(gateway, upstream, asking("/api/v1/svc/special")) == "special"
        assert await met(gateway, upstream, asking("/api/v1/svc/administer")) == "none"
        assert upstream.requests[-1].target == b"/administer"


async def test_a_row_may_lead_elsewhere_than_the_open_line_of_the_same_name() -> None:
    async with ScriptedUpstream(answer(b"one")) as one, ScriptedUpstream(answer(b"two")) as two:
        config = service("one", [one]) + service("two", [two])
        async with governed(config, row("/api/v1/one/moved/*", to="two")) as gateway:
            assert (await get(gateway, "/api/v1/one/moved/x")).body == b"two"
            assert (await get(gateway, "/api/v1/one/x")).body == b"one"


async def test_a_host_is_a_condition() -> None:
    rows = (
        named("/x", "a", 'host = "a.example"'),
        named("/x", "wild", 'host = "*.b.example"'),
        named("/y", "any"),
        named("/y", "y-a", 'host = "a.example"'),
    )
    expected = {
        ("/x", b"a.example"): "a",
        ("/x", b"A.Example:8080"): "a",
        ("/x", b"x.b.example"): "wild",
        ("/x", b"c.example"): "404",
        ("/x", b"a.example.evil"): "404",
        ("/x", b"xb.example"): "404",
        ("/y", b"a.example"): "y-a",
        ("/y", b"c.example"): "any",
    }
    async with in_front("", *rows) as (gateway, upstream):
        got = {
            (path, host): await met(gateway, upstream, asking(path, host=host))
            for path, host in expected
        }
        assert got == expected


async def test_header_fields_are_conditions() -> None:
    rows = (
        named("/x", "two", 'headers = { X-Version = "2" }'),
        named("/x", "beta", "headers = { X-Beta = true }"),
        named("/x", "plain"),
        named("/z", "both", 'headers = { X-Version = "2", X-Beta = true }'),
    )
    async with in_front("", *rows) as (gateway, upstream):
        for fields, wanted in {
            (): "plain",
            (b"X-Version: 2",): "two",
            (b"x-version:  2 ",): "two",
            (b"X-Version: 3",): "plain",
            (b"X-Version: 22",): "plain",
            (b"X-Beta: anything",): "beta",
        }.items():
            assert (fields, await met(gateway, upstream, asking("/x", *fields))) == (fields, wanted)
        for fields, wanted in {
            (b"X-Beta: 1",): "404",
            (b"X-Beta: 1", b"X-Version: 2"): "both",
        }.items():
            assert (fields, await met(gateway, upstream, asking("/z", *fields))) == (fields, wanted)


async def test_a_path_is_rewritten_and_only_as_the_row_says() -> None:
    rows = (
        row("/movies/:id/cast/:who", 'rewrite = "/people/:who/in/:id"'),
        row("/files/*rest", 'rewrite = "/store/*rest"'),
        row("/v2/*", 'strip_prefix = "/v2"'),
        row("/same/*"),
    )
    expected = {
        "/movies/7/cast/anna?x=%20": "/people/anna/in/7?x=%20",
        "/movies/a%2Cb/cast/%61nna": "/people/%61nna/in/a%2Cb",
        "/files/a%20b/c?q": "/store/a%20b/c?q",
        "/v2/orders/%7E7?x=/v2": "/orders/%7E7?x=/v2",
        "/same//a/%41;x=y?": "/same//a/%41;x=y?",
    }
    async with in_front("", *rows) as (gateway, upstream):
        got = {}
        for path in expected:
            assert (await get(gateway, path)).status == 200
            got[path] = upstream.requests[-1].target.decode()
        assert got == expected


async def test_fields_of_the_request_are_set_added_and_removed() -> None:
    line = (
        'request_headers = { set = { X-Set = "gateway" }, add = { X-Add = "more" }, '
        'remove = ["X-Secret", "Cookie"] }'
    )
    fields = (b"X-Set: client", b"x-set: again", b"X-Add: one", b"x-SECRET: 1", b"Cookie: a=b")
    async with in_front("", row("/x", line)) as (gateway, upstream):
        assert (await get(gateway, "/x", *fields, b"Connection: X-Set")).status == 200
        (told,) = upstream.requests
        assert told.all("x-set") == [b"gateway"]
        assert told.all("x-add") == [b"one", b"more"]
        assert not {b"x-secret", b"cookie"} & told.names


async def test_fields_of_the_answer_are_set_added_and_removed() -> None:
    line = (
        'response_headers = { set = { Cache-Control = "no-store" }, add = { X-Add = "more" }, '
        'remove = ["Server"] }'
    )
    script = answer(b"ok", b"Server: old/1", b"cache-control: public", b"X-Add: one")
    async with in_front("", row("/x", line), script=script) as (gateway, _):
        response = await get(gateway, "/x")
        assert response.body == b"ok"
        assert response.all("cache-control") == [b"no-store"]
        assert response.all("x-add") == [b"one", b"more"]
        assert b"old/1" not in response.head
        assert len(response.all("x-request-id")) == 1


async def test_a_rows_body_limit_is_its_own() -> None:
    async with in_front("", row("/small", "max_body_bytes = 10"), row("/large")) as (gateway, up):
        for path, size, status in (("small", 10, 200), ("small", 11, 413), ("large", 11, 200)):
            data = request(f"POST /{path}".encode(), body=b"b" * size)
            assert (await gateway.ask(data)).status == status
        chunked = request(b"POST /small", b"Transfer-Encoding: chunked") + chunks(
            b"b" * 6, b"b" * 6
        )
        assert_error(await gateway.ask(chunked), 413, "PAYLOAD_TOO_LARGE")
        assert [message.target for message in up.requests if message.body] == [b"/small", b"/large"]


async def silent(link: Link) -> None:
    """Reads and never answers."""
    await link.request()
    await link.closed(60)


async def test_time_outs_of_a_row_are_its_own() -> None:
    rows = (row("/head", "head_timeout = 0.2"), row("/total", "total_timeout = 0.2"))
    async with in_front("", *rows, script=silent) as (gateway, upstream):
        for path in ("/head", "/total"):
            assert_error(await get(gateway, path), 504, "TIMEOUT")
        for link in upstream.links:
            await link.closed()


async def test_a_total_time_out_ends_an_answer_that_goes_on_and_on() -> None:
    async def trickles(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            while not link.ended:
                link.send(b"1\r\nx\r\n")
                await link.closed(0.02)

    lines = "total_timeout = 1.0"
    async with in_front("", row("/x", lines), script=trickles) as (gateway, upstream):
        async with gateway.connect() as client:
            client.send(asking("/x"))
            await client.closed()
            assert b"200 OK" in client.received
            assert not client.received.endswith(b"0\r\n\r\n")
        await upstream.links[0].closed()


GPTBOT = b"User-Agent: Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)"
BROWSER = b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


async def test_agents_are_refused_or_limited_where_a_row_says_so() -> None:
    rows = (
        row("/closed", 'agents = "refuse"'),
        row("/few", "agents = { per_hour = 1 }"),
        row("/open"),
    )
    agents = ((b"X-AI-Agent: crawl-1",), (b"AI-Agent-ID: a/7",), (GPTBOT,))
    async with in_front("", *rows) as (gateway, upstream):
        for fields in agents:
            assert_error(await get(gateway, "/closed", *fields), 403, "FORBIDDEN")
        assert upstream.requests == []
        assert await statuses(gateway, 2, "/closed", BROWSER) == [200] * 2
        assert await statuses(gateway, 2, "/few", GPTBOT) == [200, 429]
        assert await statuses(gateway, 3, "/few", BROWSER) == [200] * 3
        assert await statuses(gateway, 2, "/open", GPTBOT) == [200] * 2


async def test_agents_are_logged_and_counted_by_names_that_no_client_chooses() -> None:
    async with in_front("", row("/x")) as (gateway, _):
        for fields in ((GPTBOT,), (b"X-AI-Agent: evil-name-77",), (BROWSER,)):
            assert (await get(gateway, "/x", *fields)).status == 200
        known, own, browser = await gateway.records(3)
        assert "gptbot" in str(known["ai_agent"]).lower()
        assert own["ai_agent"]
        assert not browser.get("ai_agent")
        figures = (await get(gateway, "/metrics")).body
        assert b"evil-name-77" not in figures
        assert await metric(gateway, 'gateway_ai_agent_requests_total{agent="other"}') == 1
        (line,) = [
            each
            for each in figures.lower().splitlines()
            if each.startswith(b"gateway_ai_agent_requests_total") and b"gptbot" in each
        ]
        assert float(line.split()[-1]) == 1


async def test_a_record_shows_the_query_keys_that_a_row_allows() -> None:
    rows = (row("/x", 'query = ["page", "q"]'), row("/y"))
    async with in_front("", *rows) as (gateway, upstream):
        assert (await get(gateway, "/x?page=2&token=hidden&q=a+b&page=3&%70age=4")).status == 200
        assert (await get(gateway, "/y?page=2&token=hidden")).status == 200
        shown, nothing = await gateway.records(2)
        assert "page=2" in shown["query"]
        assert "q=" in shown["query"]
        assert "page" not in str(nothing.get("query"))
        assert b"hidden" not in gateway.log_path.read_bytes()
        assert upstream.requests[0].target.endswith(b"?page=2&token=hidden&q=a+b&page=3&%70age=4")


async def test_a_record_names_the_row_and_not_what_matched_it() -> None:
    async with in_front("", row("/orders/:id", 'name = "order"'), row("/items/:id")) as (
        gateway,
        _,
    ):
        for path in ("/orders/77", "/items/88"):
            assert (await get(gateway, path)).status == 200
        order, item = await gateway.records(2)
        assert order["route"] == "order"
        assert item["route"] == "/items/:id"
        figures = (await get(gateway, "/metrics")).body
        assert b"77" not in b"".join(line for line in figures.splitlines() if b"route=" in line)


@contextlib.contextmanager
def written(rows: str) -> Iterator[dict[str, str]]:
    """The environment of a command that reads these rows."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "rows.toml").write_text(rows)
        file = Path(name) / "settings.toml"
        file.write_text('routes = ["rows.toml"]\n[services.svc]\nurl = "http://127.0.0.1:9"\n')
        yield {"GATEWAY_CONFIG": str(file)}


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        # Each table is four lines, or five with one of its own.
        (row("/a/:x") + row("/a/:y"), 4, "/a/:"),
        (row("/x", "cost = 2") + row("/y", to="nowhere"), 7, "nowhere"),
        (
            row("/x", 'methods = ["GET"]')
            + row("/x", 'methods = ["POST"]')
            + row("/x", 'methods = ["GET", "POST"]'),
            9,
            "/x",
        ),
        (row("/health/*"), 2, "/health"),
    ],
    ids=["ambiguous", "unknown service", "unreachable", "the gateway's own"],
)
def test_check_finds_a_row_that_can_not_be_meant(rows: str, line: int, said: str) -> None:
    with written(rows) as environ:
        done = run_gateway("check", **environ)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [each for each in done.stderr.splitlines() if "rows.toml:" in each]
    assert told, done.stderr
    number = int(told[0].partition("rows.toml:")[2].partition(":")[0])
    assert line <= number <= line + 3, told
    assert said in told[0]


def test_routes_tells_which_row_a_request_meets() -> None:
    rows = row("/a/:x", 'auth = "scope:boss"', 'methods = ["GET"]') + row("/a/*")
    with written(rows) as environ:
        one = run_gateway("routes", "GET", "/a/7", **environ)
    assert one.returncode == 0
    assert "/a/:x" in one.stdout
    assert "rows.toml:" in one.stdout
    assert "scope:boss" in one.stdout
    assert "http://127.0.0.1:9/a/7" in one.stdout
