"""The store: what is kept, what is found again, and that of all who race one wins."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest

from gateway.store import Deliveries, StoredQuestions
from sse.answer import Deed, Expiry, Outcome, Withdrawal
from sse.question_store import Mark, Note, StoreAwayError
from tests.asking import NOW_MS, Asker, Clock, Place, Told, attempt, someone
from tests.store.keeping import ALICE, BOB, CAROL, code, keep


async def test_a_question_is_found_as_it_was_asked(
    place: Place, clock: Clock, asker: Asker
) -> None:
    new = asker.new(
        None, options=["a'b", 'c"d'], metadata={"nul": "\x00", "x": "\U0001f600"},
        approvers=["bob", "team"], policy="all", reminders=[5], default="c\"d",
    )  # fmt: skip
    async with place.store(clock) as store:
        await keep(store, new)
    async with place.store(clock) as store:
        found = await store.find([new.question.question_id, "other"])
        assert set(found) == {new.question.question_id}
        assert found[new.question.question_id].question == new.question
        assert found[new.question.question_id].state.is_open
        assert await store.find([]) == {}
        assert await store.details("other") is None


async def test_asking_the_same_again_finds_it_and_another_is_taken(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        first = asker.new(question_id="mine")
        await keep(store, first)
        again = await store.ask([asker.new(question_id="mine")], together=False)
        assert again.found is not None
        assert again.found.question == first.question
        other = await store.ask([asker.new(question_id="mine", prompt="?")], together=False)
        assert (other.taken, other.found) == (("mine",), None)
        assert await store.count_open() == 1


async def test_a_list_is_kept_whole_or_not_at_all(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.store(clock) as store:
        await keep(store, asker.new(question_id="mine"))
        news = [asker.new(), asker.new(question_id="mine"), asker.new()]
        assert (await store.ask(news, together=True)).taken == ("mine",)
        twice = [asker.new(question_id="two"), asker.new(question_id="two")]
        assert set((await store.ask(twice, together=True)).taken) == {"two"}
        assert await store.count_open() == 1
        assert (await store.ask([asker.new(), asker.new()], together=True)).taken == ()
        assert await store.count_open() == 3


async def test_the_same_id_asked_by_many_gateways_at_once_is_asked_once(
    place: Place, clock: Clock
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        news = [Asker(clock).new(question_id="mine", prompt=f"{n % 2}") for n in range(40)]
        asked = await asyncio.gather(
            *((one, two)[n % 2].ask([new], together=False) for n, new in enumerate(news))
        )
        kept = [each for each in asked if not each.taken and each.found is None]
        assert len(kept) == 1
        assert await one.count_open() == 1
        winner = (await two.find(["mine"]))["mine"].question
        for new, each in zip(news, asked, strict=True):
            same = (
                json.loads(new.question.document)["prompt"] == json.loads(winner.document)["prompt"]
            )
            assert (not each.taken) is same


async def test_an_answer_ends_it_and_everyone_is_told(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        told = Told()
        store.attend(told)
        [asked] = await keep(store, asker.new())
        assert [new.question for new in told.news] == [asked]
        outcome = await store.decide(attempt(asked, ALICE, b'"\\u0000"'))
        assert code(outcome) == ""
        [ending] = told.endings
        assert ending.question == asked
        assert ending.resolved() == outcome.body
        details = await store.details(asked.question_id)
        assert details is not None
        assert details.state.status == "answered"
        assert json.loads(details.shown())["answer"]["response"] == "\x00"
        late = await store.decide(attempt(asked, BOB))
        assert code(late) == "CONFLICT"
        assert late.refused is not None
        assert late.refused.extra["answered_by"] == "alice"
        assert await store.count_open() == 0
        assert len(told.endings) == 1


@pytest.mark.parametrize("gateways", [1, 2, 3])
async def test_of_many_answers_from_many_gateways_one_wins(
    place: Place, clock: Clock, asker: Asker, gateways: int
) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(place.store(clock)) for _ in range(gateways)]
        told = Told()
        for store in stores:
            store.attend(told)
        questions = await keep(stores[0], *(asker.new() for _ in range(10)))
        deeds: list[Deed] = [
            attempt(asked, someone(f"user{n}"), f"{n}".encode())
            for asked in questions
            for n in range(20)
        ]
        random.Random(7).shuffle(deeds)
        outcomes = await asyncio.gather(
            *(stores[n % gateways].decide(deed) for n, deed in enumerate(deeds))
        )
        for asked in questions:
            mine = [
                outcome
                for deed, outcome in zip(deeds, outcomes, strict=True)
                if deed.question == asked
            ]
            [winner] = [each for each in mine if code(each) == ""]
            told_by = json.loads(winner.body)["answered_by"]
            losers = [each.refused for each in mine if each.refused is not None]
            assert len(losers) == 19
            assert {each.extra["answered_by"] for each in losers} == {told_by}
        assert sorted(each.question.question_id for each in told.endings) == sorted(
            each.question_id for each in questions
        )


async def test_answers_withdrawals_and_expiries_that_race_have_one_winner(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        told = Told()
        one.attend(told)
        two.attend(told)
        questions = await keep(one, *(asker.new(expires_in=1, default=7) for _ in range(12)))
        clock.now += 0.999
        deeds: list[Deed] = []
        for asked in questions:
            deeds += [attempt(asked, ALICE), attempt(asked, BOB), Withdrawal(asked, "svc")]
        random.Random(3).shuffle(deeds)

        async def later(deed: Deed, at: int) -> Outcome:
            if at == len(deeds) // 2:
                clock.now += 0.001  # now it is time
            return await (one, two)[at % 2].decide(deed)

        sweeps = [store.end_due(clock.ms + 1, 100) for store in (one, two)]
        jobs = [later(deed, at) for at, deed in enumerate(deeds)]
        outcomes = (await asyncio.gather(*jobs, *sweeps))[: len(deeds)]
        assert len(told.endings) == len(questions)
        for asked in questions:
            [ending] = [each for each in told.endings if each.question == asked]
            details = await one.details(asked.question_id)
            assert details is not None
            assert details.state.status == ending.state.status
            assert details.state.answer == ending.state.answer
            wins = [
                deed
                for deed, outcome in zip(deeds, outcomes, strict=True)
                if deed.question == asked and not isinstance(deed, Withdrawal | Expiry)
                and isinstance(outcome, Outcome) and outcome.refused is None
            ]  # fmt: skip
            assert len(wins) <= 1


async def test_votes_from_many_gateways_are_counted_once_each(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        questions = await keep(one, *(asker.new(policy={"at_least": 5}) for _ in range(5)))
        voters = [someone(f"user{n % 12}") for n in range(36)]
        deeds = [attempt(asked, who) for asked in questions for who in voters]
        outcomes = await asyncio.gather(
            *((one, two)[n % 2].decide(deed) for n, deed in enumerate(deeds))
        )
        for asked in questions:
            mine = [o for d, o in zip(deeds, outcomes, strict=True) if d.question == asked]
            bodies = [json.loads(each.body) for each in mine if each.refused is None]
            assert sorted(body.get("votes", 5) for body in bodies) == [1, 2, 3, 4, 5]
            details = await two.details(asked.question_id)
            assert details is not None
            assert details.state.voted == 5
            assert len({vote.voter for vote in details.state.votes}) == 5


async def test_a_key_gets_the_same_bytes_again_at_any_gateway_and_after_a_restart(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as one, place.store(clock) as two:
        [asked] = await keep(one, asker.new())
        mine = attempt(asked, ALICE, key="k")
        outcomes = await asyncio.gather(*((one, two)[n % 2].decide(mine) for n in range(20)))
        assert len({each.body for each in outcomes}) == 1
        assert [each.replayed for each in outcomes].count(False) == 1
        assert code(await two.decide(attempt(asked, ALICE, b"2", key="k"))) == "UNPROCESSABLE"
        assert code(await two.decide(attempt(asked, ALICE, key="other"))) == "CONFLICT"
        assert code(await two.decide(attempt(asked, BOB, key="k"))) == "CONFLICT"
        body = outcomes[0].body
    async with place.store(clock) as again:
        replay = await again.decide(mine)
        assert (replay.body, replay.replayed) == (body, True)


async def test_a_key_of_a_refused_answer_is_free(place: Place, clock: Clock, asker: Asker) -> None:
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new(policy={"at_least": 2}))
        await store.decide(attempt(asked, ALICE, key="k"))
        assert code(await store.decide(attempt(asked, ALICE, key="k2"))) == "CONFLICT"
        again = await store.decide(attempt(asked, ALICE, key="k"))
        assert again.replayed
        assert json.loads(again.body)["votes"] == 1


async def test_an_answer_to_what_is_not_there_is_unknown(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        outcome = await store.decide(attempt(asker.new().question, ALICE))
        assert code(outcome) == "NOT_FOUND"


async def test_refused_tries_are_in_the_trail_once_for_each(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new())
        await store.decide(attempt(asked, ALICE))
        for who in (BOB, CAROL, BOB):
            await store.decide(attempt(asked, who))
        details = await store.details(asked.question_id)
        assert details is not None
        assert [(each.who, each.detail) for each in details.noted] == [
            ("bob", "CONFLICT"),
            ("carol", "CONFLICT"),
        ]


async def test_notes_are_kept_once_for_each_and_bounded(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new())
        note = Note(asked.question_id, NOW_MS, "seen", "alice")
        await store.note([note, note])
        await store.note([note, Note(asked.question_id, NOW_MS, "delivered", "alice", "c")])
        for start in range(0, 300, 50):
            await store.note(
                [Note(asked.question_id, NOW_MS, "seen", f"u{start + n}") for n in range(50)]
            )
        details = await store.details(asked.question_id)
        assert details is not None
        assert len(details.noted) == 200
        assert [each.what for each in details.noted].count("delivered") == 1


async def test_the_open_questions_of_client_ids_are_found_with_their_places(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        one, two, gone, other = await keep(
            store,
            asker.new(client_ids=["a"]),
            asker.new(client_ids=["a", "b"]),
            asker.new(client_ids=["a"]),
            asker.new(client_ids=["c"]),
        )
        await store.decide(attempt(gone, ALICE))
        await store.mark([Mark(two.question_id, "b", "epoch123-7", "question")])
        found = await store.open_for(["a", "b", "nobody"], 10)
        assert {key: [(each.question_id, each.position) for each in mine]
                for key, mine in found.items()} == {
            "a": [(one.question_id, None), (two.question_id, None)],
            "b": [(two.question_id, "epoch123-7")],
        }  # fmt: skip
        assert found["b"][0].document == two.document
        assert [each.question_id for each in (await store.open_for(["a"], 1))["a"]] == [
            one.question_id
        ]
        assert other.question_id not in str(found)


async def test_decisions_are_kept_for_sending_with_the_decision(
    place: Place, clock: Clock, asker: Asker
) -> None:
    url = "https://example.test/hook"
    async with place.database() as database, place.store(clock, forward=True) as store:
        deliveries = Deliveries(database, clock)
        plain, called, expiring, gone = await keep(
            store,
            asker.new(),
            asker.new(callback_url=url),
            asker.new(callback_url=url, expires_in=1),
            asker.new(callback_url=url),
        )
        assert await deliveries.due_deliveries(clock.now + 9, 10) == []
        await store.decide(attempt(plain, ALICE))
        await store.decide(attempt(called, ALICE))
        await store.decide(attempt(called, BOB))
        await store.decide(Withdrawal(gone, "svc"))
        await store.end_due(clock.ms + 1000, 10)
        due = await deliveries.due_deliveries(clock.now + 2, 10)
        assert sorted((each.question_id, each.kind, each.target) for each in due) == [
            (plain.question_id, "forward", ""),
            (called.question_id, "callback", url),
            (called.question_id, "forward", ""),
            (expiring.question_id, "callback", url),
            (gone.question_id, "callback", url),
        ]
        for each in due:
            payload = json.loads(each.payload)
            assert payload["type"] == "question.resolved"
            assert payload["data"]["question_id"] == each.question_id
            assert each.attempts == 0


async def test_without_forwarding_nothing_is_forwarded(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock) as store:
        [asked] = await keep(store, asker.new())
        await store.decide(attempt(asked, ALICE))
        assert await Deliveries(database, clock).due_deliveries(clock.now, 10) == []


async def test_what_the_database_does_not_take_fails_alone(
    place: Place, clock: Clock, asker: Asker
) -> None:
    if place.url is None:
        pytest.skip("SQLite takes any text")
    async with place.store(clock) as store:
        [asked] = await keep(store, asker.new())
        notes = [Note(asked.question_id, NOW_MS, "seen", who) for who in ("a", "b\x00", "c")]
        done = await asyncio.gather(*(store.note([note]) for note in notes), return_exceptions=True)
        assert [isinstance(each, Exception) for each in done] == [False, True, False]
        details = await store.details(asked.question_id)
        assert details is not None
        assert sorted(each.who for each in details.noted) == ["a", "c"]


async def test_what_is_written_in_one_turn_is_all_there(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.store(clock) as store:
        [first] = await keep(store, asker.new())
        new = asker.new()
        done = await asyncio.gather(
            store.ask([new], together=False),
            store.mark([Mark(first.question_id, "alice", "e-1", "question")]),
            store.decide(attempt(first, ALICE)),
            store.note([Note(first.question_id, NOW_MS, "seen", "bob")]),
        )
        assert done[1] is None
        details = await store.details(first.question_id)
        assert details is not None
        assert details.state.status == "answered"
        assert [each.what for each in details.noted] == ["seen"]
        assert new.question.question_id in await store.find([new.question.question_id])
        due = await store.publications_due(clock.ms + 6000, clock.ms + 7000, 10)
        assert sorted(each.kind for each in due) == ["question", "resolved"]


async def test_after_its_close_a_store_takes_nothing(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database:
        store = StoredQuestions(database, clock, clock, lambda: "x")
        asking = [asyncio.ensure_future(store.ask([asker.new()], together=False)) for _ in range(3)]
        await asyncio.sleep(0)
        await store.close()
        assert all(done.taken == () for done in await asyncio.gather(*asking))
        with pytest.raises(StoreAwayError):
            await store.ask([asker.new()], together=False)
        assert "StoredQuestions" in repr(store)


async def test_a_jobs_decision_is_kept_for_it_however_its_question_ends(
    place: Place, clock: Clock, asker: Asker
) -> None:
    async with place.database() as database, place.store(clock, forward=True) as store:
        deliveries = Deliveries(database, clock)
        answered, withdrawn, expired, defaulted, plain = await keep(
            store,
            asker.new(job="a-1"),
            asker.new(job="a-2"),
            asker.new(job="a-3", expires_in=1),
            asker.new(job="a-4", expires_in=1, default=7),
            asker.new(),
        )
        await store.decide(attempt(answered, ALICE))
        await store.decide(attempt(answered, BOB))
        await store.decide(attempt(plain, ALICE))
        await store.decide(Withdrawal(withdrawn, "gateway-worker"))
        await store.end_due(clock.ms + 1000, 10)
        due = await deliveries.due_deliveries(clock.now + 2, 10, kinds=["job"])
        payloads = {each.target: json.loads(each.payload)["data"] for each in due}
        assert {each.kind for each in due} == {"job"}
        assert {target: (data["question_id"], data["status"], data["response"])
                for target, data in payloads.items()} == {
            "a-1": (answered.question_id, "answered", "yes"),
            "a-2": (withdrawn.question_id, "withdrawn", None),
            "a-3": (expired.question_id, "expired", None),
            "a-4": (defaulted.question_id, "answered", 7),
        }  # fmt: skip
        await store.purge(clock.ms + 10**9, 10)
        assert await deliveries.due_deliveries(clock.now + 10**6, 10, kinds=["job"]) == []
