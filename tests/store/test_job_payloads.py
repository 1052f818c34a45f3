"""Large payloads of jobs: kept under an id, found again, forgotten with their job."""

from __future__ import annotations

import pytest

from gateway.store import JobPayloads
from gateway.store.job_payloads import FORGET_ROWS
from tests.asking import Place

HOUR = 3600.0


class Wall:
    """Unix seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


async def test_bytes_are_there_again_under_their_id(place: Place, wall: Wall) -> None:
    data = bytes(range(256)) * 4096
    async with place.database() as database:
        payloads = JobPayloads(database, "default", wall)
        await payloads.put("a", "job", data)
        assert await payloads.get("a") == data
        assert await payloads.get("b") is None
    async with place.database() as database:
        assert await JobPayloads(database, "default", wall).get("a") == data


async def test_what_is_there_stays_when_it_is_written_again(place: Place, wall: Wall) -> None:
    async with place.database() as database:
        payloads = JobPayloads(database, "default", wall)
        await payloads.put("a", "job", b"first")
        await payloads.put("a", "job", b"again")
        assert await payloads.get("a") == b"first"


async def test_a_job_is_due_an_hour_after_its_payload_then_ever_more_rarely(
    place: Place, wall: Wall
) -> None:
    async with place.database() as database:
        payloads = JobPayloads(database, "default", wall)
        await payloads.put("a", "job", b"data")
        began, seen = wall.now, []
        for _ in range(24 * 8):
            if await payloads.due(10):
                seen.append((wall.now - began) / HOUR)
            wall.now += HOUR
        assert seen == [1, 2, 4, 8, 16, 32, 56, 80, 104, 128, 152, 176]


async def test_who_is_told_of_a_job_is_the_only_one(place: Place, wall: Wall) -> None:
    async with place.database() as database, place.database() as other:
        mine, others = JobPayloads(database, "default", wall), JobPayloads(other, "default", wall)
        for number in range(3):
            await mine.put(f"a{number}", f"job{number}", b"data")
            await mine.put(f"b{number}", f"job{number}", b"data")
            wall.now += 1
        wall.now += HOUR
        assert await mine.due(2) == ["job0", "job1"]
        assert await others.due(2) == ["job2"]
        assert await mine.due(2) == []


async def test_a_payload_that_was_written_again_is_not_due(place: Place, wall: Wall) -> None:
    async with place.database() as database:
        payloads = JobPayloads(database, "default", wall)
        await payloads.put("a", "job", b"data")
        wall.now += HOUR
        await payloads.put("a", "job", b"data")
        assert await payloads.due(10) == []
        assert await payloads.forget("job") == 0
        assert await payloads.get("a") == b"data"


async def test_a_job_that_is_gone_takes_its_payloads_with_it_and_no_others(
    place: Place, wall: Wall
) -> None:
    async with place.database() as database:
        payloads = JobPayloads(database, "default", wall)
        for number in range(FORGET_ROWS + 3):
            await payloads.put(f"gone{number}", "gone", b"data")
        await payloads.put("kept", "kept", b"data")
        wall.now += HOUR
        await payloads.put("young", "gone", b"data")
        assert await payloads.forget("gone") == FORGET_ROWS + 3
        assert await payloads.get("gone0") is None
        assert await payloads.get("kept") == b"data"
        assert await payloads.get("young") == b"data"


async def test_another_namespaces_jobs_are_another_matter(place: Place, wall: Wall) -> None:
    async with place.database() as database:
        mine, others = JobPayloads(database, "a", wall), JobPayloads(database, "b", wall)
        await mine.put("x", "job", b"data")
        wall.now += HOUR
        assert await others.due(10) == []
        assert await others.forget("job") == 0
        assert await mine.due(10) == ["job"]


async def test_two_processes_keep_payloads_in_one_file(place: Place, wall: Wall) -> None:
    async with place.database() as gateway, place.database() as worker:
        await JobPayloads(gateway, "default", wall).put("a", "job", b"from the gateway")
        await JobPayloads(worker, "default", wall).put("b", "job", b"from the worker")
        assert await JobPayloads(worker, "default", wall).get("a") == b"from the gateway"
        assert await JobPayloads(gateway, "default", wall).get("b") == b"from the worker"
        assert "default" in repr(JobPayloads(gateway, "default", wall))
