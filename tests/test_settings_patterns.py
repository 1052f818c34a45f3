"""Patterns: how one is written, which paths it covers, which of two is the more specific, and what
a rewrite makes of a path.
"""

from __future__ import annotations

import pytest

from gateway.settings_patterns import (
    MAX_SEGMENTS,
    Kind,
    PatternError,
    Segment,
    parse_pattern,
    parse_rewrite,
    parse_strip,
    path_text,
    plain_path,
    plain_segments,
)


def covers(pattern: str, path: bytes) -> bool:
    return parse_pattern(pattern).covers(plain_segments(path))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", b"/"),
        ("/a", b"/a"),
        ("/a/", b"/a"),
        ("/a", b"/a/"),
        ("/a/b", b"/a/b"),
        ("/a/:id", b"/a/1"),
        ("/a/:id", b"/a/1/"),
        ("/:x/b/:y", b"/1/b/2"),
        ("/a/*", b"/a"),
        ("/a/*", b"/a/"),
        ("/a/*", b"/a/b"),
        ("/a/*rest", b"/a/b/c"),
        ("/*", b"/"),
        ("/*", b"/a/b"),
        ("/a*", b"/a"),
        ("/a*", b"/abc"),
        ("/a*", b"/abc/d"),
        ("/a/:id/b*", b"/a/1/bc/d"),
        ("/é", b"/%C3%A9"),
        ("/%C3%A9", b"/%c3%a9"),
        ("/a@b", b"/a%40b"),
        ("/a%40b", b"/a@b"),
        ("/%61", b"/a"),
    ],
)
def test_a_pattern_covers(pattern: str, path: bytes) -> None:
    assert covers(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", b"/a"),
        ("/a", b"/A"),
        ("/a", b"/ab"),
        ("/a", b"/a/b"),
        ("/a", b"/"),
        ("/a/:id", b"/a"),
        ("/a/:id", b"/a/"),
        ("/a/:id", b"/a/1/2"),
        ("/a/:id/*", b"/a"),
        ("/a/*", b"/ab"),
        ("/a*", b"/b"),
        ("/ab*", b"/a"),
        ("/a", b"/%2561"),
    ],
)
def test_a_pattern_covers_nothing_else(pattern: str, path: bytes) -> None:
    assert not covers(pattern, path)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/%61dmin", b"/%61%64%6d%69%6E", b"//admin", b"/admin//", b"/;/admin", b"/;x=1/admin"),
        *(b"/admin;x", b"/admin;x=1;y", b"/%61dmin;%61", b"///;a//admin/;b/", b"/admin/"),
    ],
)
def test_a_path_that_a_back_end_could_read_as_another_is_covered_as_that(path: bytes) -> None:
    assert covers("/admin", path)
    assert plain_path(path) == b"/admin"
    assert path_text(path) == "/admin"


def test_escapes_that_would_change_where_a_segment_ends_stay() -> None:
    assert plain_segments(b"/%2f%5c%00%25%3b%3F%23/x") == [b"%2F%5C%00%25%3B%3F%23", b"x"]
    assert plain_path(b"/") == b"/"
    assert plain_path(b"//") == b"/"
    assert path_text(b"/%C3%A9/%ff") == "/é/\udcff"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "does not begin with /"),
        ("", "does not begin with /"),
        ("*", "does not begin with /"),
        ("/a//b", "an empty segment"),
        ("//", "an empty segment"),
        ("/*/b", "an empty segment"),
        ("/a*/b", "can only be the last character"),
        ("/a*/:x", "can only be the last character"),
        ("/a*/*", "can only be the last character"),
        ("/a*/b*", "has two"),
        ("/a*b", "can't stand in a path"),
        ("/.", "in no path that is let in"),
        ("/..", "in no path that is let in"),
        ("/a/%2e%2E", "in no path that is let in"),
        ("/%2f", "in no path that is let in"),
        ("/a%00", "in no path that is let in"),
        ("/a%20", "in no path that is let in"),
        ("/a;b", "can't stand in a path"),
        ("/a?b", "can't stand in a path"),
        ("/a#b", "can't stand in a path"),
        ("/a b", "can't stand in a path"),
        ("/a\\b", "can't stand in a path"),
        ("/a%zz", "can't stand in a path"),
        ("/{id}", "can't stand in a path"),
        ("/:", "is no parameter"),
        ("/:1", "is no parameter"),
        ("/:a-b", "is no parameter"),
        ("/:a/:a", "two parameters have one name"),
        ("/:a/*a", "two parameters have one name"),
        ("/a" * (MAX_SEGMENTS + 1), "more than 64 segments"),
    ],
)
def test_a_pattern_that_no_path_could_meet_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PatternError, match=problem.replace("*", r"\*")):
        parse_pattern(text)


def test_the_more_specific_comes_first() -> None:
    written = [
        *("/a/b", "/a/b/c", "/a/:x", "/:x/b", "/:x/:y", "/a/b/:x/*", "/a/b/*", "/a/be*", "/a/b*"),
        *("/a/:x/*", "/a/*", "/ab*", "/a*", "/:x/*", "/*"),
    ]
    patterns = [parse_pattern(text) for text in written]
    for path in (b"/a/b", b"/a/be", b"/a/b/c", b"/a/b/c/d", b"/ab", b"/a", b"/x/b", b"/x/y"):
        found = [each for each in patterns if each.covers(plain_segments(path))]
        assert found == sorted(found, key=lambda each: each.order), path


def test_what_a_parameter_is_called_is_no_part_of_the_shape() -> None:
    assert parse_pattern("/a/:x/*y").shape == parse_pattern("/%61/:z/*").shape
    assert parse_pattern("/a/").shape == parse_pattern("/a").shape
    assert len({parse_pattern(t).shape for t in ("/a", "/a/*", "/a*", "/:a", "/")}) == 5


@pytest.mark.parametrize(
    ("wide", "narrow", "contains"),
    [
        ("/*", "/a", True),
        ("/*", "/", True),
        ("/*", "/a/:x/*", True),
        ("/a/*", "/a/b", True),
        ("/a/*", "/b", False),
        ("/a/:x", "/a/b", True),
        ("/a/:x", "/a/b/*", False),
        ("/a/b", "/a/:x", False),
        ("/a*", "/ab*", True),
        ("/a*", "/ab/c", True),
        ("/ab*", "/a*", False),
        ("/a*", "/:x", False),
        ("/a*", "/:x/*", False),
        ("/:x/*", "/a*", True),
        ("/a", "/a*", False),
        ("/a/:x/*", "/a/*", False),
    ],
)
def test_a_pattern_contains_another_that_covers_no_path_besides(
    wide: str, narrow: str, *, contains: bool
) -> None:
    assert parse_pattern(wide).contains(parse_pattern(narrow)) is contains


def test_a_stem_is_covered_by_what_it_begins_with() -> None:
    assert not Segment(Kind.LITERAL, b"a").covers(Segment(Kind.STEM, b"a"))
    assert str(parse_pattern("/a/:id/*rest")) == "/a/:id/*rest"
    assert parse_pattern("/a/:id/:no/*rest").names == ("id", "no")


@pytest.mark.parametrize(
    ("pattern", "rewrite", "path", "forwarded"),
    [
        ("/api/movies/:id", "/v2/movies/:id", b"/api/movies/7", b"/v2/movies/7"),
        ("/m/:id", "/v2/:id", b"/m/%41%2fx", b"/v2/%41%2fx"),
        ("/m/:id", "/v2/:id", b"//m//;x/%3F;v=1/", b"/v2/%3F;v=1"),
        ("/:a/:b", "/:b/x/:a", b"/1/2", b"/2/x/1"),
        ("/m/*", "/v2/*", b"/m/a//b/%41/", b"/v2/a//b/%41/"),
        ("/m/*rest", "/v2/*rest", b"/%6D//a", b"/v2//a"),
        ("/m/*rest", "/v2/*", b"/m", b"/v2"),
        ("/m/*rest", "/v2/*", b"/m/", b"/v2/"),
        ("/m/*rest", "/*", b"/m", b""),
        ("/m/*", "/", b"/m/a", b"/"),
        ("/m/:id/*", "/v2/", b"/m/a", b"/v2/"),
        ("/m/:id/*", "/v2/:id/*", b"/m/1/2/3", b"/v2/1/2/3"),
        ("/m", "/é/%41,b", b"/m", b"/%C3%A9/%41,b"),
    ],
)
def test_a_rewrite_takes_the_bytes_that_came(
    pattern: str, rewrite: str, path: bytes, forwarded: bytes
) -> None:
    made = parse_rewrite(rewrite, parse_pattern(pattern))
    assert made(path) == forwarded
    assert str(made) == rewrite


@pytest.mark.parametrize(
    ("pattern", "rewrite", "problem"),
    [
        ("/m/:id", "v2", "does not begin with /"),
        ("/m/:id", "/v2/:no", "has no :no"),
        ("/m/:id", "/v2/*", "has no * at its end"),
        ("/m/*rest", "/v2/*other", "has no *other at its end"),
        ("/m*", "/v2/*", "has no * at its end"),
        ("/m/*rest", "/v2/:rest", "has no :rest"),
        ("/m/*", "/*/v2", "can't stand in a path"),
        ("/m", "/../x", "in no path that is let in"),
        ("/m", "/%2e%2e/x", "in no path that is let in"),
        ("/m", "/a//b", "an empty segment"),
        ("/m", "/a?b=c", "can't stand in a path"),
        ("/m", "/:1", "is no parameter"),
    ],
)
def test_a_rewrite_that_says_what_is_not_there_is_refused(
    pattern: str, rewrite: str, problem: str
) -> None:
    with pytest.raises(PatternError, match=problem.replace("*", r"\*")):
        parse_rewrite(rewrite, parse_pattern(pattern))


@pytest.mark.parametrize(
    ("pattern", "strip", "path", "forwarded"),
    [
        ("/api/v1/m/*", "/api/v1", b"/api/v1/m/1", b"/m/1"),
        ("/api/v1/m/*", "/api/v1/", b"/api/v1/m", b"/m"),
        ("/api/v1/m/*", "/api/v1/m", b"/%61pi//v1;x/m", b""),
        ("/api/v1/m", "/api/v1/m", b"/api/v1/m/", b"/"),
        ("/api/:v/m", "/api/:v", b"/api/2/m", b"/m"),
    ],
)
def test_a_prefix_is_stripped_from_the_bytes_that_came(
    pattern: str, strip: str, path: bytes, forwarded: bytes
) -> None:
    assert parse_strip(strip, parse_pattern(pattern))(path) == forwarded


@pytest.mark.parametrize("strip", ["/api/v2", "/", "/api/*", "/api/v1/m/x", "/api/:v"])
def test_a_prefix_that_the_pattern_does_not_begin_with_is_refused(strip: str) -> None:
    with pytest.raises(PatternError, match="does not begin with it"):
        parse_strip(strip, parse_pattern("/api/v1/m/*"))
