"""The tree of patterns, against a search that looks at every one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.patterns import PatternTree
from gateway.settings_patterns import PatternError, parse_pattern

SEGMENTS = ("a", "ab", "abc", "b", ":x", ":y", "c%61")
PIECES = (b"a", b"ab", b"abc", b"abcd", b"b", b"ca", b"%61", b"%61b", b"", b";x", b"a;b", b"%25")


@st.composite
def patterns(draw: st.DrawFn) -> str:
    text = "".join(f"/{part}" for part in draw(st.lists(st.sampled_from(SEGMENTS), max_size=4)))
    return text + draw(st.sampled_from(["", "", "/*", "/*rest", "/a*", "/ab*", "/"])) or "/"


paths = st.lists(st.sampled_from(PIECES), max_size=6).map(lambda pieces: b"/" + b"/".join(pieces))


def readable(texts: list[str]) -> list[str]:
    """The patterns that are ones, one of each shape."""
    kept: dict[object, str] = {}
    for text in texts:
        try:
            kept.setdefault(parse_pattern(text).shape, text)
        except PatternError:
            continue
    return list(kept.values())


def covers(pattern: str, path: bytes) -> bool:
    """What the words of the README say, by a regular expression."""
    plain = re.sub(rb";[^/]*", b"", path).replace(b"%61", b"a")
    plain = re.sub(rb"/+", b"/", plain).rstrip(b"/")
    text = re.escape(pattern.replace("%61", "a").rstrip("/")).replace(r"\*rest", r"\*")
    text = text.replace(r"/\*", "(/.*)?").replace(r"\*", ".*")
    return re.fullmatch(re.sub(":[xy]", "[^/]+", text).encode(), plain, re.DOTALL) is not None


def rank(pattern: str) -> tuple[object, ...]:
    """Exact, parameters, open; the deeper open one; the literal at the first difference."""
    parts = [part for part in pattern.split("/") if part]
    if parts and parts[-1] in ("*", "*rest"):
        parts.pop()
    kinds = [1 if p.endswith("*") else 2 if p.startswith(":") else 0 for p in parts]
    stem = len(parts[-1]) if "*" in "".join(parts) else 0
    if "*" in pattern:
        return (2, -len(parts), kinds, -stem)
    return (1 if ":" in pattern else 0, 0, kinds, 0)


@given(st.lists(patterns(), max_size=25), st.lists(paths, min_size=1, max_size=8))
def test_the_tree_finds_what_a_look_at_every_pattern_finds(
    texts: list[str], asked: list[bytes]
) -> None:
    kept = readable(texts)
    tree = PatternTree((parse_pattern(text), text) for text in kept)
    for path in asked:
        wanted = sorted((text for text in kept if covers(text, path)), key=rank)
        assert tree.find_all(path) == wanted
        assert tree.find(path) == (wanted[0] if wanted else None)


def test_a_parameter_is_tried_where_the_literal_beside_it_leads_nowhere() -> None:
    tree = PatternTree((parse_pattern(t), t) for t in ("/:x/a/b", "/:x/:y/c", "/:x/a/*"))
    assert tree.find(b"/1/a/c") == "/:x/:y/c"
    assert tree.find(b"/1/a/d") == "/:x/a/*"
    assert tree.find(b"/1/b/d") is None


def test_two_patterns_of_one_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        PatternTree([(parse_pattern("/:a"), 1), (parse_pattern("/:b/"), 2)])


def test_a_path_of_very_many_segments_is_found_as_fast_as_another() -> None:
    tree = PatternTree((parse_pattern(t), t) for t in ("/a/:x/*", "/a/:x/b/:y"))
    assert tree.find(b"/a" + b"/b" * 4000) == "/a/:x/*"
    assert tree.find_all(b"/a/1/b/2" + b"/b" * 4000) == ["/a/:x/*"]


def test_no_pattern_covers_nothing() -> None:
    tree: PatternTree[str] = PatternTree([])
    assert tree.find(b"/") is None
    assert tree.find(b"*") is None
    assert tree.find_all(b"/a") == []


def test_of_open_patterns_behind_one_parameter_the_deeper_is_found_first() -> None:
    texts = ("/:x/*", "/:x/a/*", "/:x/a*", "/:x/ab*", "/:x/a/b/:y")
    tree = PatternTree((parse_pattern(text), text) for text in texts)
    assert tree.find_all(b"/1/abc/d") == ["/:x/ab*", "/:x/a*", "/:x/*"]
    assert tree.find_all(b"/1/a/b/2") == ["/:x/a/b/:y", "/:x/a/*", "/:x/a*", "/:x/*"]
    assert tree.find_all(b"/1") == ["/:x/*"]
    assert [tree.find(path) for path in (b"/1/abc/d", b"/1/a/b", b"/1/b")] == [
        "/:x/ab*",
        "/:x/a/*",
        "/:x/*",
    ]
