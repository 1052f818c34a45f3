"""Targets: where a path leads, and which ones are refused before they lead anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.table import BadTarget, RouteTable, split_target

TABLE = RouteTable({"users": "USERS", "ai_models": "AI", "x_y": "XY"}, ["/health", "/metrics"])


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


@pytest.mark.parametrize(
    ("path", "service", "rest"),
    [
        (b"/api/v1/users", "USERS", b""),
        (b"/api/v1/users/", "USERS", b"/"),
        (b"/api/v1/users/a/b", "USERS", b"/a/b"),
        (b"/api/v1/users//a", "USERS", b"//a"),
        (b"/api/v1/ai_models/m", "AI", b"/m"),
        (b"/api/v1/ai-models/m", "AI", b"/m"),
        (b"/api/v1/x-y/%41", "XY", b"/%41"),
    ],
)
def test_the_open_line_leads_to_the_service_by_name(path: bytes, service: str, rest: bytes) -> None:
    assert TABLE.match(path) == (service, "/api/v1/{service}", rest)


@pytest.mark.parametrize("name", [b"a-b_c-d", b"a_b-c_d", b"a-b-c-d", b"a_b_c_d"])
def test_hyphens_and_underscores_are_one_in_a_services_name(name: bytes) -> None:
    table = RouteTable({"a_b_c_d": 1}, [])
    assert table.match(b"/api/v1/" + name) == (1, "/api/v1/{service}", b"")


@pytest.mark.parametrize(
    "path",
    [
        *(b"/", b"*", b"/api/v1", b"/api/v1/", b"/api/v1/nobody/x", b"/api/v1//users", b"/users"),
        *(b"/API/v1/users", b"/api/v1/Users", b"/api/v1/user%73", b"/api/v1/users;x", b"//health"),
        *(b"/health/", b"/healthy", b"/x/api/v1/users"),
    ],
)
def test_other_paths_lead_nowhere(path: bytes) -> None:
    assert TABLE.match(path) is None


def test_a_mounted_path_is_matched_whole() -> None:
    assert TABLE.match(b"/health") == (None, "/health", b"/health")
    below = RouteTable({"users": "USERS"}, ["/api/v1/admin"])
    assert below.match(b"/api/v1/admin") == (None, "/api/v1/admin", b"/api/v1/admin")
    assert below.match(b"/api/v1/admin/x") is None


def test_a_service_wins_over_a_mounted_path_of_its_name() -> None:
    table = RouteTable({"a": 1}, ["/api/v1/a"])
    assert table.match(b"/api/v1/a") == (1, "/api/v1/{service}", b"")


def test_the_names_are_told_in_order() -> None:
    assert TABLE.names() == ["ai_models", "users", "x_y"]
    TABLE.names().clear()
    assert TABLE.names() == ["ai_models", "users", "x_y"]


PATTERNS = RouteTable({"users": "USERS"}, ["/x/{id}", "/x/{id}/y", "/x/all", "/{a}/{b}/{c}/z"])


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
    assert PATTERNS.match(path) == (None if name is None else (None, name, path))
