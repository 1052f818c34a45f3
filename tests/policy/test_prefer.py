"""The Prefer field (RFC 7240), as it is written well and badly."""

from __future__ import annotations

import pytest

from gateway.policy.prefer import Preferences, preferences

ASYNC, NOTHING = Preferences(respond_async=True), Preferences()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], NOTHING),
        ([""], NOTHING),
        (["respond-async"], ASYNC),
        (["Respond-Async"], ASYNC),
        (["  respond-async\t"], ASYNC),
        (['respond-async=""'], ASYNC),  # §2: an empty value is no value
        (["respond-async="], ASYNC),
        (["respond-async; x=1; y"], ASYNC),
        (["respond-async, wait=10"], Preferences(True, 10)),
        (["wait=10", "respond-async"], Preferences(True, 10)),
        (['foo; bar="a, b; c", respond-async , wait = 3'], Preferences(True, 3)),
        (["handling=lenient, wait=0"], Preferences(False, 0)),
        (['wait="7"'], Preferences(False, 7)),
        (['wait="1\\2"'], Preferences(False, 12)),
        (["wait=5, wait=9"], Preferences(False, 5)),  # §2: the first instance
        (["wait=5", "wait=9"], Preferences(False, 5)),
        (["wait=007"], Preferences(False, 7)),
        (["wait=99999999999999999999"], Preferences(False, 2_147_483_648)),
        (["wait=" + "9" * 5000], Preferences(False, 2_147_483_648)),
    ],
)
def test_what_a_client_prefers_is_read(values: list[str], said: Preferences) -> None:
    assert preferences(values) == said


@pytest.mark.parametrize(
    "value",
    [
        "respond-async=yes",
        "respond async",
        "respond_async",
        "xrespond-async",
        "respond-async x",
        "respond-async/1",
        'foo="respond-async"',
        'foo="a, respond-async"',
        'foo="a\\", respond-async"',
        '", respond-async',
        'respond-async"',
        "foo; respond-async",
        "wait",
        "wait=-1",
        "wait=1.5",
        "wait=1e3",
        "wait=٣",
        "wait=soon",
        "=1",
        ",,,",
        "\x00",
    ],
)
def test_what_does_not_say_it_says_nothing(value: str) -> None:
    assert preferences([value]) == NOTHING


@pytest.mark.parametrize("broken", ["a b", "=", 'x="', '"', "x==", ";;", "ü", 'a"b"c"'])
def test_what_can_not_be_read_hides_nothing_before_it(broken: str) -> None:
    assert preferences([f"respond-async, wait=4, {broken}"]) == Preferences(True, 4)


@pytest.mark.parametrize("broken", ["a b", "=", 'x="y"z', "x==", ";;", "ü", ""])
def test_a_member_that_can_not_be_read_hides_none_behind_it(broken: str) -> None:
    assert preferences([f"{broken}, respond-async"]) == ASYNC


@pytest.mark.parametrize("piece", ['"', '\\"', '"\\', 'a="', ",", '",', "a ;", ' "a, '])
def test_a_long_field_of_nothing_is_nothing(piece: str) -> None:
    assert preferences([piece * 8000]) == NOTHING
