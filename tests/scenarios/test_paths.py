"""Paths: which are refused, and that the bytes of the others go upstream as they came."""

from __future__ import annotations

import pytest

from tests.wire import ScriptedUpstream, assert_error, proxied, request, start_gateway

REFUSED = [
    b"/../admin",
    b"/a/../b",
    b"/a/..",
    b"/./a",
    b"/a/.",
    b"/a/../../../../etc/passwd",
    b"/%2e%2e/admin",
    b"/%2E%2E/admin",
    b"/.%2e/admin",
    b"/%2e./admin",
    b"/%2e/admin",
    b"/a/%2e%2e",
    b"/..%2f..%2fadmin",
    b"/..%2F..%2Fadmin",
    b"/..%5c..%5cadmin",
    b"/a%2fb",
    b"/a%2Fb",
    b"/a%5cb",
    b"/a%5Cb",
    b"/a%00b",
    b"/a%00",
    b"/a\\b",
    b"/..\\admin",
    b"/..;/admin",
    b"/..;a=b/admin",
    b"/.;/admin",
    b"/a/..;",
    b"/%2e%2e;/admin",
    b"/%252e%252e/admin",
    b"/%252E%252e/admin",
    b"/..%252f..%252fadmin",
    b"/a%252fb",
    b"/a%252Fb",
    b"/a%255cb",
    b"/a%2500b",
]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("tail", [b"", b"?q=1"], ids=["", "with a query"])
async def test_a_path_that_could_be_read_in_two_ways_is_400(path: bytes, tail: bytes) -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(request(b"GET /api/v1/svc" + path + tail))
        assert_error(response, 400, "BAD_REQUEST")
        assert upstream.links == []


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/../v1/svc/x",
        b"/api/v1/other/../svc/x",
        b"/api/v1/other/..%2fsvc/x",
        b"/api/v1/%2e%2e/v1/svc/x",
        b"/./api/v1/svc/x",
        b"/health/../api/v1/svc/x",
        b"http://gateway.test/api/v1/svc/../admin",
        b"http://gateway.test/api/v1/svc/%2e%2e/admin",
    ],
)
async def test_dot_segments_are_refused_before_a_service_is_chosen(target: bytes) -> None:
    async with proxied() as (gateway, upstream):
        assert_error(await gateway.ask(request(b"GET " + target)), 400, "BAD_REQUEST")
        assert upstream.links == []


UNTOUCHED = [
    b"/",
    b"/x/",
    b"/x/y/z",
    b"/a%3Fb",
    b"/a%3fb",
    b"/a%23b",
    b"/a%20b",
    b"/%41%62",
    b"/100%25",
    b"/%C3%A9",
    b"/a//b",
    b"//a",
    b"/a///",
    b"/.hidden",
    b"/a.b/..c",
    b"/...",
    b"/a;v=1/b",
    b"/a;v=1",
    b"/a:b@c!$&'()*+,=",
    b"/~user/-_",
    b"/x?",
    b"/x?q",
    b"/x?a=b&a=c",
    b"/x?q=%2F..%2f",
    b"/x?q=%252F",
    b"/x?q=../..",
    b"/x?q=%2e%2e%2f%00%5c",
    b"/x?u=http://a/b?c",
    b"/x?%3F=%26+",
    b"/?q",
]


@pytest.mark.parametrize("rest", UNTOUCHED)
async def test_the_bytes_of_path_and_query_go_upstream_untouched(rest: bytes) -> None:
    async with proxied() as (gateway, upstream):
        response = await gateway.ask(request(b"GET /api/v1/svc" + rest))
        assert response.status == 200
        assert upstream.requests[0].start == b"GET " + rest + b" HTTP/1.1"


@pytest.mark.parametrize("base", ["/base", "/base/", "/a/b"])
@pytest.mark.parametrize("rest", [b"/x?y", b"/a%3Fb", b"//x", b"/"])
async def test_the_base_path_of_an_endpoint_is_kept(base: str, rest: bytes) -> None:
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url + base) as gateway,
    ):
        assert (await gateway.ask(request(b"GET /api/v1/svc" + rest))).status == 200
        assert upstream.requests[0].target == base.rstrip("/").encode() + rest


@pytest.mark.parametrize("path", [b"/../x", b"/%2e%2e/x", b"/%252e%252e/x", b"/..;/x", b"/..%5cx"])
async def test_no_spelling_leaves_the_base_path(path: bytes) -> None:
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(SVC_URL=upstream.url + "/base") as gateway,
    ):
        assert_error(await gateway.ask(request(b"GET /api/v1/svc" + path)), 400, "BAD_REQUEST")
        assert upstream.links == []


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/%73vc/x",
        b"/api/v1/sv%63/x",
        b"/api/v1/nosuch/x",
        b"/api/v2/svc/x",
        b"/svc/x",
        b"/",
    ],
)
async def test_the_service_is_chosen_on_the_raw_bytes_and_others_are_404(target: bytes) -> None:
    async with proxied() as (gateway, upstream):
        assert_error(await gateway.ask(request(b"GET " + target)), 404, "NOT_FOUND")
        assert upstream.links == []


@pytest.mark.parametrize(
    "method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"REPORT"]
)
async def test_any_method_is_passed_on(method: bytes) -> None:
    async with proxied() as (gateway, upstream):
        assert (await gateway.ask(request(method + b" /api/v1/svc/x"))).status == 200
        assert upstream.requests[0].method == method
