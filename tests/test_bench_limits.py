"""The benchmark of limits counts what it says. No test here looks at a time."""

from __future__ import annotations

from bench import limits


def test_times_are_the_nearest_rank_in_tenths_of_a_microsecond() -> None:
    times = limits.Times()
    for number in range(1, 1001):
        times.add(number * 1000 - 1)
    assert times.shares() == {"p50": 500.0, "p99": 990.0, "p999": 999.0, "slowest": 999.999}
    times.add(50_000_000)
    assert times.shares()["slowest"] == 50_000.0


def test_each_phase_makes_its_decisions_and_the_section_says_so() -> None:
    found = limits.measure(300)
    refused = {phase["name"]: phase["refused"] for phase in found["phases"]}
    assert refused.pop("one address that is refused") >= 250
    assert set(refused.values()) == {0}
    assert 0 < found["remembered"] <= 300
    text = limits.section(found | {"keys": 1_000_000})
    assert "1,000,000 client addresses" in text
    assert text.count("\n| ") == len(found["phases"]) + 2  # the header and its rule
