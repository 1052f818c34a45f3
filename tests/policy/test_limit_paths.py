"""Which patterns a path matches: all of them, whatever way the path is written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.limit_paths import PathIndex
from gateway.settings_patterns import parse_pattern, path_text, plain_segments

PATTERNS = (
    "/",
    "/*",
    "/api/v1/movies",
    "/api/v1/movies/:id",
    "/api/v1/movies/:id/cast",
    "/api/v1/movies/top",
    "/api/v1/search*",
    "/api/v1/content/*rest",
    "/api/:version/movies/*",
    "/api/v1/caf%C3%A9",
)


def index(*patterns: str) -> PathIndex[str]:
    """An index that finds the patterns themselves."""
    return PathIndex([(parse_pattern(pattern), pattern) for pattern in patterns])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", {"/"}),
        ("/api/v1/movies", {"/api/v1/movies", "/api/:version/movies/*"}),
        (
            "/api/v1/movies/7",
            {"/api/v1/movies/:id", "/api/:version/movies/*"},
        ),
        (
            "/api/v1/movies/top",
            {"/api/v1/movies/:id", "/api/v1/movies/top", "/api/:version/movies/*"},
        ),
        ("/api/v1/movies/7/cast", {"/api/v1/movies/:id/cast", "/api/:version/movies/*"}),
        ("/api/v2/movies/7/crew", {"/api/:version/movies/*"}),
        ("/api/v1/search", {"/api/v1/search*"}),
        ("/api/v1/searches", {"/api/v1/search*"}),
        ("/api/v1/search/all/x", {"/api/v1/search*"}),
        ("/api/v1/sear", set()),
        ("/api/v1/content", {"/api/v1/content/*rest"}),
        ("/api/v1/content/a/b", {"/api/v1/content/*rest"}),
        ("/api/v1/contents", set()),
        ("/api/v1/café", {"/api/v1/caf%C3%A9"}),
        ("/api", set()),
    ],
)
def test_a_path_finds_every_pattern_that_is_about_it(path: str, found: set[str]) -> None:
    assert set(index(*PATTERNS).match(path)) == found | {"/*"}


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/v1/search",
        b"/api/v1/search/",
        b"//api/v1//search",
        b"/api/v1/%73earch",
        b"/api/v1;x=1/search;y",
        b"/api/v1/search;/",
    ],
)
def test_no_way_of_writing_a_path_walks_round_a_rule(raw: bytes) -> None:
    assert index("/api/v1/search").match(path_text(raw)) == ("/api/v1/search",)


def test_no_pattern_finds_nothing() -> None:
    assert index().match("/a/b") == ()


SEGMENTS = st.sampled_from(["a", "b", "ab", "c"])
PARTS = st.one_of(SEGMENTS, st.just(":x"))
WRITTEN = st.builds(
    lambda parts, end: "/" + "/".join(parts) + end,
    st.lists(PARTS, min_size=1, max_size=3).map(
        lambda parts: [f"{part}{at}" if part == ":x" else part for at, part in enumerate(parts)]
    ),
    st.sampled_from(["", "/*", "/a*", "/"]),
)
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=150)
@given(patterns=st.lists(WRITTEN, max_size=6, unique=True), path=PATHS)
def test_the_index_finds_what_each_pattern_covers_by_itself(patterns: list[str], path: str) -> None:
    segments = plain_segments(path.encode())
    expected = [one for one in patterns if parse_pattern(one).covers(segments)]
    assert sorted(index(*patterns).match(path)) == sorted(expected)
