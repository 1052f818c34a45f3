"""Targets: which ones are refused, and where a path leads: to a row, a service of the open line, or
a path of the gateway's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.matching import Matching
from gateway.routing.table import BadTarget, Match, MethodNotAllowed, RouteTable, split_target
from gateway.settings_patterns import Rewrite, parse_pattern, parse_rewrite
from gateway.settings_route_rows import HeaderCondition, RouteSettings


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a/b?c=d", b"/a/b", b"?c=d"),
        (b"/a?", b"/a", b"?"),
        (b"/a?b?c/../d", b"/a", b"?b?c/../d"),
        (b"//a//b", b"//a//b", b""),
        (b"*", b"*", b""),
        (b"http://a.test/b?c", b"/b", b"?c"),
        (b"HTTPS://a.test:8443/b", b"/b", b""),
        (b"http://a.test", b"/", b""),
        (b"http://a.test?c=/d", b"/", b"?c=/d"),
        (b"http://a.test/?c", b"/", b"?c"),
    ],
)
def test_a_target_is_its_path_and_its_query(target: bytes, path: bytes, query: bytes) -> None:
    assert split_target(target) == (path, query)


@pytest.mark.parametrize(
    "target", [b"", b"a", b"a.test:443", b"ftp://a.test/", b"://a/b", b"?q", b"**", b"./a"]
)
def test_a_target_that_is_neither_a_path_nor_a_url_is_refused(target: bytes) -> None:
    with pytest.raises(BadTarget, match="neither a path"):
        split_target(target)


@pytest.mark.parametrize("target", [b"http:///a", b"https://", b"http://?q", b"http://:80/a"])
def test_a_url_without_a_host_is_refused(target: bytes) -> None:
    # RFC 9110 §4.2.1: who processes an http URI with an empty host MUST reject it.
    with pytest.raises(BadTarget):
        split_target(target)


@pytest.mark.parametrize("target", [b"/a#b", b"/a?b#c", b"http://a.test/b#c", b"http://a.test#c"])
def test_a_fragment_is_refused(target: bytes) -> None:
    with pytest.raises(BadTarget, match="fragment"):
        split_target(target)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/a/%2e%41", b"/a%20b", b"/%C3%A9", b"/%3Fx", b"/a;b=c", b"/a/;v=1", b"/.well-known/x"),
        *(b"/...", b"/a/.../b", b"/..a", b"/a..", b"/.a;x", b"/%252520", b"/%25", b"//", b"/a/"),
    ],
)
def test_a_path_is_handed_on_as_it_came(path: bytes) -> None:
    assert split_target(path + b"?q=%2e%2e%zz\\") == (path, b"?q=%2e%2e%zz\\")


@pytest.mark.parametrize(
    "path",
    [
        *(b"/.", b"/..", b"/a/../b", b"/a/./b", b"/a/..", b"/../", b"/a/%2e%2e/b", b"/a/.%2E"),
        *(b"/%2e", b"/%252e%252e/x", b"/%252e.", b"/..;/x", b"/.;x=1/y", b"/...;/x", b"/%2e%2e;x"),
        *(b"/..%3bx", b"/..%253b", b"http://a.test/b/../c"),
    ],
)
def test_dot_segments_are_refused_in_every_disguise(path: bytes) -> None:
    with pytest.raises(BadTarget, match="dot segment"):
        split_target(path)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/a%2fb", b"/a%2Fb", b"/a%5cb", b"/a%5Cb", b"/a%00b", b"/%252f", b"/%255C", b"/%2500"),
        b"/..%2f..%2fadmin",
    ],
)
def test_an_encoded_slash_backslash_or_nul_is_refused(path: bytes) -> None:
    with pytest.raises(BadTarget, match="encoded slash"):
        split_target(path)


def test_a_backslash_is_refused() -> None:
    with pytest.raises(BadTarget, match="backslash"):
        split_target(b"/a\\b")


@pytest.mark.parametrize("path", [b"/%", b"/%4", b"/a%zz", b"/%%41", b"/%4g"])
def test_a_percent_sign_that_begins_no_escape_is_refused(path: bytes) -> None:
    with pytest.raises(BadTarget, match="percent"):
        split_target(path)


@given(st.lists(st.sampled_from([b"a", b"/", b".", b"%2e", b"%25", b"2e", b";", b"%2F", b"2f"])))
def test_no_accepted_path_climbs_however_often_it_is_decoded(pieces: list[bytes]) -> None:
    try:
        path, _ = split_target(b"/" + b"".join(pieces))
    except BadTarget:
        return
    once = path.replace(b"%2e", b".").replace(b"%2F", b"/").replace(b"%25", b"%")
    for form in (path, once, once.replace(b"%2e", b".").replace(b"%2f", b"/")):
        segments = [segment.partition(b";")[0] for segment in form.split(b"/")]
        assert b"." not in segments
        assert b".." not in segments
    assert b"%2f" not in once.lower()
    assert path.count(b"/") == once.count(b"/")


# The table


@dataclass
class Led:
    """A row, or a service of the open line."""

    name: str
    matching: Matching | None = None
    rewrite: Rewrite | None = None


@dataclass
class Request:
    host: bytes | None = b"gateway.test"
    by_name: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)


PLAIN = Request()


def row(
    path: str,
    methods: str = "",
    *,
    name: str = "",
    host: str | None = None,
    headers: tuple[HeaderCondition, ...] = (),
    rewrite: str = "",
) -> Led:
    pattern = parse_pattern(path)
    settings = RouteSettings(
        name=name or path,
        where="x.toml:1",
        pattern=pattern,
        service="x",
        methods=tuple(methods.split()) or None,
        host=host,
        headers=headers,
    )
    changed = parse_rewrite(rewrite, pattern) if rewrite else None
    return Led(settings.name, Matching.of(settings), changed)


def table(*rows: Led, services: Sequence[str] = (), mounted: Sequence[str] = ()) -> RouteTable[Led]:
    return RouteTable(rows, {name: Led(name) for name in services}, mounted)


OPEN = table(services=["users", "ai_models", "x_y"], mounted=["/health", "/metrics"])


def led(
    routes: RouteTable[Led], path: bytes, method: bytes = b"GET", head: Request = PLAIN
) -> tuple[str, bytes] | MethodNotAllowed | None:
    """Whither, and what is forwarded."""
    found = routes.match(method, path, head)
    if isinstance(found, Match):
        assert found.route is None or found.route.name == found.name
        return found.name, found.path
    return found


@pytest.mark.parametrize(
    ("path", "service", "rest"),
    [
        (b"/api/v1/users", "users", b""),
        (b"/api/v1/users/", "users", b"/"),
        (b"/api/v1/users/a/b", "users", b"/a/b"),
        (b"/api/v1/users//a", "users", b"//a"),
        (b"/api/v1/ai_models/m", "ai_models", b"/m"),
        (b"/api/v1/ai-models/m", "ai_models", b"/m"),
        (b"/api/v1/x-y/%41", "x_y", b"/%41"),
    ],
)
def test_the_open_line_leads_to_the_service_by_name(path: bytes, service: str, rest: bytes) -> None:
    assert led(OPEN, path) == (service, rest)


@pytest.mark.parametrize("name", [b"a-b_c-d", b"a_b-c_d", b"a-b-c-d", b"a_b_c_d"])
def test_hyphens_and_underscores_are_one_in_a_services_name(name: bytes) -> None:
    assert led(table(services=["a_b_c_d"]), b"/api/v1/" + name) == ("a_b_c_d", b"")


@pytest.mark.parametrize(
    "path",
    [
        *(b"/", b"*", b"/api/v1", b"/api/v1/", b"/api/v1/nobody/x", b"/api/v1//users", b"/users"),
        *(b"/API/v1/users", b"/api/v1/Users", b"/api/v1/user%73", b"/api/v1/users;x", b"//health"),
        *(b"/health/", b"/healthy", b"/x/api/v1/users"),
    ],
)
def test_other_paths_lead_nowhere(path: bytes) -> None:
    assert led(OPEN, path) is None


def test_a_mounted_path_is_matched_whole() -> None:
    assert OPEN.match(b"GET", b"/health", PLAIN) == (None, "/health", b"/health")
    below = table(services=["users"], mounted=["/api/v1/admin"])
    assert led(below, b"/api/v1/admin") == ("/api/v1/admin", b"/api/v1/admin")
    assert led(below, b"/api/v1/admin/x") is None


def test_the_names_are_told_in_order() -> None:
    assert OPEN.names() == ["ai_models", "users", "x_y"]
    OPEN.names().clear()
    assert OPEN.names() == ["ai_models", "users", "x_y"]


PATTERNS = table(mounted=["/x/{id}", "/x/{id}/y", "/x/all", "/{a}/{b}/{c}/z"])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/x/1", "/x/{id}"),
        (b"/x/%41", "/x/{id}"),
        (b"/x/all", "/x/all"),
        (b"/x/1/y", "/x/{id}/y"),
        (b"/1/2/3/z", "/{a}/{b}/{c}/z"),
        (b"/x/", None),
        (b"/x//y", None),
        (b"/x/1/y/", None),
        (b"/x/1/Y", None),
        (b"/x", None),
    ],
)
def test_a_segment_in_braces_stands_for_any_that_is_not_empty(
    path: bytes, name: str | None
) -> None:
    assert led(PATTERNS, path) == (None if name is None else (name, path))


# Rows


ROWS = table(
    row("/api/v1/users/admin", "POST", name="admin"),
    row("/api/v1/users/public/*", name="public"),
    row("/shop/:id", "GET PUT", rewrite="/v2/items/:id"),
    row("/shop/*rest", "DELETE", name="shop"),
    services=["users"],
    mounted=["/health", "/api/v1/events/{client_id}"],
)


def test_a_row_wins_over_the_open_line_and_forwards_the_path_as_it_came() -> None:
    assert led(ROWS, b"/api/v1/users/public/%41//b/") == (
        "public",
        b"/api/v1/users/public/%41//b/",
    )
    assert led(ROWS, b"/api/v1/users/other") == ("users", b"/other")


@pytest.mark.parametrize(
    "path",
    [
        *(
            b"/api/v1/users/admin",
            b"/api/v1/users/%61dmin",
            b"/api/v1/users//admin",
            b"//api/v1/users/admin",
        ),
        *(
            b"/api/v1/users/admin/",
            b"/api/v1/users/;/admin",
            b"/api/v1/users;x=1/admin;y",
            b"/%61pi/v1/users/admin",
        ),
    ],
)
def test_a_path_that_a_row_matches_never_falls_through_to_the_open_line(path: bytes) -> None:
    assert led(ROWS, path, b"POST") == ("admin", path)
    assert led(ROWS, path, b"GET") == MethodNotAllowed(b"POST", "admin")


def test_another_method_is_405_with_what_all_rows_of_the_path_take() -> None:
    assert led(ROWS, b"/shop/1", b"PATCH") == MethodNotAllowed(
        b"DELETE, GET, HEAD, PUT", "/shop/:id"
    )
    assert led(ROWS, b"/shop/1/2", b"GET") == MethodNotAllowed(b"DELETE", "shop")
    assert led(ROWS, b"/shop/1", b"OPTIONS") == MethodNotAllowed(
        b"DELETE, GET, HEAD, PUT", "/shop/:id"
    )


def test_a_method_that_the_specific_row_does_not_take_meets_the_next_row() -> None:
    assert led(ROWS, b"/shop/1", b"DELETE") == ("shop", b"/shop/1")


def test_head_goes_where_get_goes_unless_a_row_lists_it() -> None:
    assert led(ROWS, b"/shop/1", b"HEAD") == ("/shop/:id", b"/v2/items/1")
    apart = table(
        row("/a", "GET", name="get"), row("/a", "HEAD", name="head"), row("/a", name="any")
    )
    assert [led(apart, b"/a", m) for m in (b"GET", b"HEAD", b"PURGE")] == [
        (name, b"/a") for name in ("get", "head", "any")
    ]


def test_a_rewrite_takes_the_bytes_that_came() -> None:
    assert led(ROWS, b"/shop/%41;v=1/") == ("/shop/:id", b"/v2/items/%41;v=1")


def test_the_gateways_own_paths_come_before_rows_that_cover_them() -> None:
    wide = table(row("/*"), row("/:a"), mounted=["/health", "/api/v1/events/{client_id}"])
    assert led(wide, b"/health") == ("/health", b"/health")
    assert led(wide, b"/api/v1/events/c") == ("/api/v1/events/{client_id}", b"/api/v1/events/c")
    assert led(wide, b"/health/") == ("/:a", b"/health/")
    assert led(wide, b"/") == ("/*", b"/")
    assert led(wide, b"*") is None


def test_rows_with_conditions_come_before_those_without() -> None:
    beta = (HeaderCondition("x-beta"),)
    two = (HeaderCondition("x-beta", "2"),)
    routes = table(
        row("/a", name="any"),
        row("/a", name="below", host="*.shop.test"),
        row("/a", name="shop", host="www.shop.test"),
        row("/a", name="beta", headers=beta),
        row("/a", name="two", headers=two),
        row("/a", name="both", host="www.shop.test", headers=beta),
    )
    for head, name in (
        (Request(), "any"),
        (Request(None), "any"),
        (Request(b"shop.test"), "any"),
        (Request(b"WWW.shop.test:8080"), "shop"),
        (Request(b"www.shop.test."), "shop"),
        (Request(b"a.b.shop.test"), "below"),
        (Request(b".shop.test"), "any"),
        (Request(b"x", {b"x-beta": [b"1"]}), "beta"),
        (Request(b"x", {b"x-beta": [b"1", b"2"]}), "two"),
        (Request(b"www.shop.test", {b"x-beta": [b"2"]}), "both"),
    ):
        assert led(routes, b"/a", head=head) == (name, b"/a"), head


def test_an_address_is_a_host_too() -> None:
    routes = table(row("/a", host="[::1]"), row("/b", host="127.0.0.1"))
    assert led(routes, b"/a", head=Request(b"[::1]:8080")) == ("/a", b"/a")
    assert led(routes, b"/b", head=Request(b"127.0.0.1:8080")) == ("/b", b"/b")


def test_conditions_that_are_not_met_do_not_open_the_open_line() -> None:
    routes = table(
        row("/api/v1/users/*", host="in.test"),
        row("/api/v1/users/x", "GET", headers=(HeaderCondition("x-key"),)),
        services=["users"],
    )
    assert led(routes, b"/api/v1/users/1") is None
    assert led(routes, b"/api/v1/users/x") is None
    inside = Request(b"in.test", {b"x-key": [b""]})
    assert led(routes, b"/api/v1/users/x", head=inside) == ("/api/v1/users/x", b"/api/v1/users/x")
    assert led(routes, b"/api/v1/users/x", b"PUT", inside) == (
        "/api/v1/users/*",
        b"/api/v1/users/x",
    )


def open_line(*rows: Led) -> RouteTable[Led]:
    """One service of two names."""
    models = Led("models")
    return RouteTable(rows, {"ai_models": models, "ai_models_service": models, "b": Led("b")}, [])


@pytest.mark.parametrize(
    "written", ["ai-models", "ai_models", "ai-models-service", "ai_models-service"]
)
@pytest.mark.parametrize(
    "asked", [b"ai-models", b"ai_models", b"ai_models_service", b"ai-models_service"]
)
def test_a_row_is_not_walked_round_by_another_name_of_the_service(
    written: str, asked: bytes
) -> None:
    routes = open_line(row(f"/api/v1/{written}/admin", "POST", name="admin"), row("/api/v2/b"))
    path = b"/api/v1/" + asked + b"/admin"
    assert led(routes, path, b"POST") == ("admin", path)
    assert led(routes, path) == MethodNotAllowed(b"POST", "admin")
    assert led(routes, b"/api/v1/" + asked + b"/x") == ("models", b"/x")
    assert led(routes, b"/api/v1/b/admin") == ("b", b"/admin")


def test_nor_is_a_row_for_names_that_begin_so() -> None:
    routes = open_line(row("/api/v1/ai-m*", name="stem"), row("/api/v1/:any/x", name="x"))
    assert led(routes, b"/api/v1/ai_models/y") == ("stem", b"/api/v1/ai_models/y")
    assert led(routes, b"/api/v1/b/y") == ("b", b"/y")
    assert led(routes, b"/api/v1/b/x") == ("x", b"/api/v1/b/x")


@pytest.mark.parametrize("methods", ["", "GET"])
def test_two_rows_for_the_same_requests_are_refused(methods: str) -> None:
    with pytest.raises(ValueError, match="the same requests"):
        table(row("/a/:x", methods), row("/a/:y", methods))
    with pytest.raises(ValueError, match="without a pattern"):
        table(Led("x"))
