"""Watching for policy: loaded at the start, followed within a look, kept while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from gateway.policy.limits import Limits
from gateway.policy.ratelimit import LocalBuckets
from gateway.policy.revocations import Revocations
from gateway.store import Database, LimitConfigs, PolicyWatch, RevokedTokens, StoredRule
from gateway.store.revoked import PAGE_ROWS
from tests.asking import NOW, Clock, Place
from tests.connection import eventually
from tests.postgres_server import CannotStartError, PostgresServer, postgres_server


@dataclass
class Heard:
    """What a watch called back with."""

    rules: list[list[str]] = field(default_factory=list)
    revoked: list[dict[str, float]] = field(default_factory=list)
    failing: Exception | None = None

    def on_rules(self, rules: Sequence[StoredRule]) -> None:
        if self.failing is not None:
            raise self.failing
        self.rules.append([rule.pattern for rule in rules])

    def on_revoked(self, revoked: Mapping[str, float]) -> None:
        self.revoked.append(dict(revoked))


@dataclass
class Gateway:
    """One that watches."""

    database: Database
    clock: Clock
    heard: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        self.configs = LimitConfigs(self.database, self.clock)
        self.revoked = RevokedTokens(self.database, self.clock)

    def watch(self, interval_seconds: float = 3600.0) -> PolicyWatch:
        return PolicyWatch(
            self.configs,
            self.revoked,
            self.heard.on_rules,
            self.heard.on_revoked,
            interval_seconds,
            self.clock,
        )


@asynccontextmanager
async def gateway(place: Place, clock: Clock) -> AsyncIterator[Gateway]:
    async with place.database() as database:
        yield Gateway(database, clock)


def rule(pattern: str) -> StoredRule:
    return StoredRule("", pattern, per_minute=1)


async def test_what_is_there_at_the_start_is_told_before_it_is_over(
    place: Place, clock: Clock
) -> None:
    async with gateway(place, clock) as here:
        await here.configs.put(rule("/a"))
        await here.revoked.revoke("t", NOW + 60)
        watch = here.watch()
        await watch.start()
        assert here.heard.rules == [["/a"]]
        assert here.heard.revoked == [{"t": NOW + 60}]
        await watch.close()
        assert repr(watch) == "<PolicyWatch rules=1 revoked=1>"


async def test_an_empty_database_says_so_once(place: Place, clock: Clock) -> None:
    async with gateway(place, clock) as here:
        watch = here.watch()
        for _ in range(3):
            await watch.look()
        assert (here.heard.rules, here.heard.revoked) == ([[]], [])


async def test_changes_of_another_gateway_are_followed_by_themselves(
    place: Place, clock: Clock
) -> None:
    async with gateway(place, clock) as here, gateway(place, clock) as there:
        watch = here.watch(0.01)
        await watch.start()
        await there.configs.put(rule("/a"))
        await eventually(lambda: here.heard.rules[-1] == ["/a"], seconds=60)
        await there.revoked.revoke("t", NOW + 60)
        await eventually(lambda: here.heard.revoked, seconds=60)
        await there.configs.delete("", "/a")
        await eventually(lambda: here.heard.rules[-1] == [], seconds=60)
        assert here.heard.revoked == [{"t": NOW + 60}]
        await watch.close()


async def test_a_look_at_no_change_is_one_small_query(place: Place, clock: Clock) -> None:
    done: list[str] = []

    def heard(_: object, __: object, statement: str, *___: object) -> None:
        done.append(statement)

    async with gateway(place, clock) as here:
        await here.configs.put(rule("/a"))
        watch = here.watch()
        await watch.look()
        event.listen(Connection, "before_cursor_execute", heard)
        try:
            await watch.look()
        finally:
            event.remove(Connection, "before_cursor_execute", heard)
    queries = [each for each in done if not each.startswith("BEGIN")]
    assert len(queries) == 1
    assert "FROM policy_versions" in queries[0]


async def test_revocations_are_told_once_each_however_many(place: Place, clock: Clock) -> None:
    many = f"""INSERT INTO revoked_tokens (jti, expires_ms, revoked_ms, version)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PAGE_ROWS + 1})
        SELECT 't' || i, {clock.ms + 60_000}, 0, i FROM n"""
    async with gateway(place, clock) as here:

        def work(connection: Connection) -> None:
            connection.execute(text(many))
            connection.execute(
                text(f"INSERT INTO policy_versions VALUES ('revoked', {PAGE_ROWS + 1})")
            )

        await here.database.write(work)
        watch = here.watch()
        await watch.look()
        await here.revoked.revoke("last", NOW + 60)
        await watch.look()
        await watch.look()
    assert [len(page) for page in here.heard.revoked] == [PAGE_ROWS, 1, 1]
    assert here.heard.revoked[-1] == {"last": NOW + 60}


async def test_an_older_copy_of_the_database_is_read_from_its_beginning(
    place: Place, clock: Clock
) -> None:
    async with gateway(place, clock) as here:
        watch = here.watch()
        for name in ("a", "b", "c"):
            await here.revoked.revoke(name, NOW + 60)
        await watch.look()

        def restore(connection: Connection) -> None:
            connection.execute(text("DELETE FROM revoked_tokens WHERE jti <> 'a'"))
            connection.execute(text("UPDATE policy_versions SET version = 1"))

        await here.database.write(restore)
        await watch.look()
    assert here.heard.revoked[-1] == {"a": NOW + 60}


async def test_what_expired_is_not_told_and_swept_once_a_minute(place: Place, clock: Clock) -> None:
    def count(connection: Connection) -> int:
        return connection.scalar(text("SELECT count(*) FROM revoked_tokens")) or 0

    async with gateway(place, clock) as here:
        watch = here.watch()
        await watch.look()
        await here.revoked.revoke("t", NOW - 3600)
        clock.now += 59
        await watch.look()
        assert await here.database.read(count) == 1
        clock.now += 1
        await watch.look()
        assert await here.database.read(count) == 0
        assert here.heard.revoked == []


async def test_a_database_that_is_not_open_yet_is_no_error_and_heard_of_later(
    place: Place, clock: Clock
) -> None:
    database = Database(place.url, place.state_dir, patience_seconds=30.0)
    here = Gateway(database, clock)
    watch = here.watch(0.01)
    with capture_logs() as lines:
        await watch.start()
        assert "away" in repr(watch)
        await database.open()
        await here.configs.put(rule("/a"))
        await eventually(lambda: here.heard.rules[-1:] == [["/a"]], seconds=60)
        await eventually(lambda: "away" not in repr(watch), seconds=60)
        await watch.close()
    await database.close()
    ours = [line["event"] for line in lines if line["event"].startswith("policy_watch")]
    assert ours == ["policy_watch.away", "policy_watch.back"]


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    """A server that a test may stop."""
    try:
        with postgres_server() as server:
            yield server
    except CannotStartError as error:
        pytest.skip(f"no PostgreSQL here: {error}")


async def test_while_the_database_is_away_all_is_kept_and_one_line_said(
    own_server: PostgresServer, tmp_path: Path, clock: Clock
) -> None:
    place = Place(await own_server.database(), tmp_path)
    async with gateway(place, clock) as here:
        await here.configs.put(rule("/a"))
        watch = here.watch()
        await watch.look()
        await asyncio.to_thread(own_server.stop, "immediate")
        with capture_logs() as lines:
            for _ in range(3):
                await watch.look()
            assert here.heard.rules == [["/a"]]
            await asyncio.to_thread(own_server.start)
            await here.configs.put(rule("/b"))
            await watch.look()
    assert here.heard.rules == [["/a"], ["/a", "/b"]]
    ours = [line["event"] for line in lines if line["event"].startswith("policy_watch")]
    assert ours == ["policy_watch.away", "policy_watch.back"]


async def test_whoever_is_called_back_and_fails_does_not_end_the_watch(
    place: Place, clock: Clock
) -> None:
    async with gateway(place, clock) as here:
        watch = here.watch()
        here.heard.failing = ValueError("a bug")
        with capture_logs() as lines:
            await here.revoked.revoke("t", NOW + 60)
            await watch.look()
            await watch.look()
            assert here.heard.revoked == [{"t": NOW + 60}]
            here.heard.failing = None
            await watch.look()
        assert here.heard.rules == [[]]
    told: list[Any] = [line for line in lines if line["event"].startswith("policy_watch")]
    assert [line["event"] for line in told] == ["policy_watch.away", "policy_watch.back"]
    assert "a bug" in told[0]["error"]


async def test_no_line_shows_the_parameters_of_a_statement(place: Place, clock: Clock) -> None:
    async with gateway(place, clock) as here:
        here.heard.failing = ProgrammingError("SELECT :a", {"a": "a secret"}, ValueError("wrong"))
        with capture_logs() as lines:
            await here.watch().look()
    (told,) = [line for line in lines if line["event"] == "policy_watch.away"]
    assert told["error"] == "ValueError: wrong"


async def test_looks_at_once_tell_each_change_once(place: Place, clock: Clock) -> None:
    async with gateway(place, clock) as here:
        watch = here.watch()
        await here.configs.put(rule("/a"))
        await asyncio.gather(*(watch.look() for _ in range(5)))
        assert here.heard.rules == [["/a"]]
        await watch.close()


async def test_limits_and_revocations_take_what_a_watch_gives(place: Place, clock: Clock) -> None:
    limits = Limits((), (), None, LocalBuckets(1000))
    revocations = Revocations()
    async with gateway(place, clock) as here:
        await here.configs.put(StoredRule("acme", "/a", per_minute=7))
        await here.revoked.revoke("t", NOW + 60)
        await here.revoked.revoke("gw_1", None)
        watch = PolicyWatch(here.configs, here.revoked, limits.set_stored, revocations.merge)
        await watch.look()
    assert [(each.tenant, each.per_minute) for each in limits.stored] == [("acme", 7)]
    assert revocations.is_revoked("t")
    assert revocations.is_revoked("gw_1")
