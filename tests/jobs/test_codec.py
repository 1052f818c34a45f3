"""What a history holds: nothing that can be read without a payload key, and nothing large."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.json_format import MessageToJson
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    NexusSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from gateway.jobs.codec import (
    CROWD_BYTES,
    INLINE_BYTES,
    MOST_BYTES,
    SMALL_BYTES,
    Ciphers,
    Crowds,
    JobCodec,
    JobPayloadConverter,
    PayloadError,
    data_converter,
    operation_of,
)
from gateway.jobs.connect import connect
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings
from tests.temporal_server import TemporalServer, temporal

__all__ = ["temporal"]

SECRET = "marked-secret-4711"
OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
JOB = f"{'a' * 16}-{'b' * 32}"


def keys(*pairs: tuple[str, bytes]) -> PayloadKeys:
    return PayloadKeys(Settings(payload_keys=pairs or (NEW,)))


class Kept:
    """Payloads that are kept in memory, with whose they are."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bytes]] = {}
        self.puts = 0

    async def put(self, payload_id: str, operation_id: str, data: bytes) -> None:
        self.puts += 1
        self.rows.setdefault(payload_id, (operation_id, data))

    async def get(self, payload_id: str) -> bytes | None:
        row = self.rows.get(payload_id)
        return None if row is None else row[1]


@dataclass
class Nested:
    names: list[str]


@dataclass
class Given:
    secret: str
    nested: Nested | None = None
    rest: dict[str, Any] = field(default_factory=dict)


async def through(codec: JobCodec, payload: Payload) -> Payload:
    [encoded] = await codec.encode([payload])
    return encoded


# JSON


def test_values_come_back_as_the_types_that_are_hinted_at() -> None:
    converter = JobPayloadConverter()
    given = Given("s", Nested(["a", "b"]), {"n": 1.5, "none": None})
    [payload] = converter.to_payloads([given])
    assert payload.metadata == {"encoding": b"json/plain"}
    assert (
        payload.data == b'{"secret":"s","nested":{"names":["a","b"]},"rest":{"n":1.5,"none":null}}'
    )
    assert converter.from_payloads([payload], [Given]) == [given]
    assert converter.from_payloads([payload]) == [
        {"secret": "s", "nested": {"names": ["a", "b"]}, "rest": {"n": 1.5, "none": None}}
    ]


@pytest.mark.parametrize("value", [2**70, "lone \ud800 surrogate", b"bytes", None, [1, "ä"]])
def test_what_orjson_does_not_know_comes_back_all_the_same(value: Any) -> None:
    converter = JobPayloadConverter()
    assert converter.from_payloads(converter.to_payloads([value])) == [value]


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        JobPayloadConverter().to_payloads([object()])


# Encryption


async def test_what_is_encoded_shows_nothing_and_comes_back() -> None:
    codec = JobCodec(Ciphers(keys()), None)
    payload = Payload(metadata={"encoding": b"json/plain"}, data=SECRET.encode())
    encoded = await through(codec, payload)
    assert SECRET.encode() not in encoded.SerializeToString()
    assert dict(encoded.metadata) == {
        "encoding": b"binary/encrypted",
        "encryption-key-id": b"new",
    }
    assert await codec.decode([encoded]) == [payload]
    assert (await through(codec, payload)).data != encoded.data


async def test_an_older_key_still_decrypts_and_the_newest_encrypts() -> None:
    payload = Payload(data=b"x")
    before = await through(JobCodec(Ciphers(keys(OLD)), None), payload)
    rotated = JobCodec(Ciphers(keys(NEW, OLD)), None)
    assert await rotated.decode([before]) == [payload]
    assert (await through(rotated, payload)).metadata["encryption-key-id"] == b"new"


@pytest.mark.parametrize("place", [0, 20, 30, -1])
async def test_what_was_changed_is_refused(place: int) -> None:
    codec = JobCodec(Ciphers(keys()), None)
    encoded = await through(codec, Payload(data=b"x"))
    changed = bytearray(encoded.data)
    changed[place] ^= 1
    encoded.data = bytes(changed)
    with pytest.raises(PayloadError, match="was changed, or payload key 'new' is another one"):
        await codec.decode([encoded])


async def test_what_was_cut_is_refused() -> None:
    codec = JobCodec(Ciphers(keys()), None)
    encoded = await through(codec, Payload(data=b"x"))
    encoded.data = encoded.data[:40]
    with pytest.raises(PayloadError, match="too short"):
        await codec.decode([encoded])


async def test_what_was_never_encoded_passes() -> None:
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b"1")
    assert await JobCodec(Ciphers(keys()), None).decode([payload]) == [payload]


def test_a_salt_that_has_made_its_nonces_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jobs.codec._MOST_UNDER_A_SALT", 3)
    monkeypatch.setattr("gateway.jobs.codec._MOST_CIPHERS", 2)
    ciphers = Ciphers(keys())
    made = [ciphers.encrypt(b"x", b"")[1] for _ in range(10)]
    assert len({data[:16] for data in made}) == 4
    assert [ciphers.decrypt("new", data, b"") for data in made] == [b"x"] * 10
    assert repr(ciphers) == "<Ciphers new>"


# Large payloads


async def test_a_large_payload_is_kept_elsewhere_and_referred_to() -> None:
    kept = Kept()
    codec = JobCodec(Ciphers(keys()), kept).with_context(
        WorkflowSerializationContext("default", JOB)
    )
    payload = Payload(metadata={"encoding": b"json/plain"}, data=SECRET.encode() * 20_000)
    encoded = await through(codec, payload)
    assert encoded.ByteSize() < 200
    assert dict(encoded.metadata) == {"encoding": b"binary/encrypted-reference"}
    [(name, (operation_id, data))] = kept.rows.items()
    assert operation_id == JOB
    assert encoded.data == name.encode()
    assert SECRET.encode() not in data
    assert await codec.decode([encoded]) == [payload]


@pytest.mark.parametrize(("size", "rows"), [(INLINE_BYTES - 2048, 0), (INLINE_BYTES, 1)])
async def test_up_to_256_kib_a_payload_stays_in_the_history(size: int, rows: int) -> None:
    kept = Kept()
    encoded = await through(JobCodec(Ciphers(keys()), kept), Payload(data=b"x" * size))
    assert len(kept.rows) == rows
    assert encoded.ByteSize() <= INLINE_BYTES


async def test_the_same_payload_of_a_job_is_kept_once_however_often_it_is_replayed() -> None:
    kept = Kept()
    codec = JobCodec(Ciphers(keys()), kept)
    of_job = codec.with_context(WorkflowSerializationContext("default", JOB))
    of_part = codec.with_context(WorkflowSerializationContext("default", f"{JOB}-part-1"))
    of_other = codec.with_context(WorkflowSerializationContext("default", "another"))
    payload = Payload(data=b"x" * INLINE_BYTES)
    first = await through(of_job, payload)
    assert await through(of_job, payload) == first
    assert await through(of_part, payload) == first
    assert await through(of_other, payload) != first
    assert len(kept.rows) == 2


async def test_one_row_can_not_stand_for_another() -> None:
    kept = Kept()
    codec = JobCodec(Ciphers(keys()), kept)
    encoded = await codec.encode([Payload(data=bytes([n]) * INLINE_BYTES) for n in range(2)])
    one, other = (each.data.decode() for each in encoded)
    kept.rows[one] = kept.rows[other]
    with pytest.raises(PayloadError, match="was changed"):
        await codec.decode(encoded)


async def test_a_payload_that_is_not_there_says_what_must_be_shared() -> None:
    encoded = await through(JobCodec(Ciphers(keys()), Kept()), Payload(data=b"x" * INLINE_BYTES))
    for elsewhere in (Kept(), None):
        with pytest.raises(PayloadError, match="must share one"):
            await JobCodec(Ciphers(keys()), elsewhere).decode([encoded])


async def test_without_a_place_for_them_large_payloads_stay() -> None:
    codec = JobCodec(Ciphers(keys()), None)
    payload = Payload(data=b"x" * INLINE_BYTES)
    encoded = await through(codec, payload)
    assert encoded.metadata["encoding"] == b"binary/encrypted"
    assert await codec.decode([encoded]) == [payload]


async def test_what_no_job_can_need_is_refused() -> None:
    with pytest.raises(PayloadError, match="is above"):
        await JobCodec(Ciphers(keys()), Kept()).encode([Payload(data=bytes(MOST_BYTES + 1))])


async def test_of_many_at_once_the_first_mib_stays_and_small_ones_do() -> None:
    kept, now = Kept(), [0.0]
    codec = JobCodec(Ciphers(keys()), kept, JOB, Crowds(lambda: now[0]))
    large = [Payload(data=bytes([n]) * 200_000) for n in range(20)]
    encoded = await codec.encode(large)
    assert len(kept.rows) == 20 - CROWD_BYTES // 200_000
    assert sum(each.ByteSize() for each in encoded) < CROWD_BYTES + 20 * 200
    assert await codec.decode(encoded) == large
    before = len(kept.rows)
    await codec.encode([Payload(data=b"x" * (SMALL_BYTES - 100))])
    await codec.with_context(WorkflowSerializationContext("default", "another")).encode(large[:1])
    assert len(kept.rows) == before
    now[0] += 1.0
    await codec.encode(large[:5])
    assert len(kept.rows) == before


def test_only_the_latest_crowds_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jobs.codec._MOST_CROWDS", 2)
    crowds = Crowds(lambda: 0.0)
    assert all(crowds.takes(name, CROWD_BYTES) for name in ("a", "b", "c"))
    assert repr(crowds) == "<Crowds 2>"
    assert not crowds.takes("c", 1)
    assert crowds.takes("a", 1)


@pytest.mark.parametrize(
    ("workflow_id", "operation_id"),
    [
        (JOB, JOB),
        (f"{JOB}-part-3", JOB),
        (f"{'a' * 16}-0190f3a1-7c5e-7000-8000-0123456789ab", None),
        (f"{'a' * 16}-0190f3a1-7c5e-7000-8000-0123456789ab-callback",
         f"{'a' * 16}-0190f3a1-7c5e-7000-8000-0123456789ab"),
        ("breaker-x-orders", "breaker-x-orders"),
        ("y" * 257, ""),
    ],
)  # fmt: skip
def test_parts_of_a_job_are_known_by_their_ids(workflow_id: str, operation_id: str | None) -> None:
    assert operation_of(workflow_id) == (workflow_id if operation_id is None else operation_id)


def test_whose_payload_it_is_comes_from_any_context_that_tells() -> None:
    codec = JobCodec(Ciphers(keys()), None)
    of_activity = ActivitySerializationContext(
        namespace="default", activity_id="1", activity_type="a", activity_task_queue="q",
        workflow_id=JOB, workflow_type="w", is_local=True,
    )  # fmt: skip
    assert repr(codec.with_context(of_activity)) == f"<JobCodec <Ciphers new> {JOB}>"
    assert codec.with_context(NexusSerializationContext("e", "s", "o")) is codec


# On a real server


@activity.defn
async def echo(given: Given) -> Given:
    activity.heartbeat(given.secret)
    return Given(given.secret, rest={"answer": given.secret})


@activity.defn
async def refuse(given: Given) -> None:
    raise ApplicationError(f"refused {given.secret}", {"detail": given.secret}, non_retryable=True)


@workflow.defn(sandboxed=False)
class Through:
    """Takes a secret everywhere that a history has room for one."""

    def __init__(self) -> None:
        self._said = ""

    @workflow.run
    async def run(self, given: Given) -> Given:
        await workflow.wait_condition(lambda: bool(self._said))
        workflow.upsert_memo({"note": given.secret})
        answered: Given = await workflow.execute_local_activity(
            echo, given, start_to_close_timeout=timedelta(seconds=10)
        )
        await workflow.execute_activity(
            echo, answered, start_to_close_timeout=timedelta(seconds=10)
        )
        await workflow.execute_activity(
            refuse, given, start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )  # fmt: skip
        return answered

    @workflow.update
    async def say(self, word: str) -> str:
        self._said = word
        return word

    @workflow.query
    def said(self) -> str:
        return self._said


@workflow.defn(sandboxed=False)
class Fans:
    """Does many things with what it was given, at once."""

    @workflow.run
    async def run(self, given: Given) -> int:
        answers = await asyncio.gather(
            *(
                workflow.execute_activity(
                    echo,
                    Given(f"{number}{given.secret}"),
                    start_to_close_timeout=timedelta(seconds=30),
                )
                for number in range(40)
            )
        )
        return len({answer.secret for answer in answers})


async def connected(server: TemporalServer, converter: DataConverter) -> Client:
    return await connect(server.address, Settings(), converter, role="test")


async def test_nothing_sensitive_stands_in_the_raw_history_of_a_failed_job(
    temporal: TemporalServer,
) -> None:
    kept = Kept()
    client = await connected(temporal, data_converter(keys(), kept))
    queue = temporal.new_queue()
    large = SECRET * 20_000
    async with Worker(
        client, task_queue=queue, workflows=[Through], activities=[echo, refuse],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):  # fmt: skip
        handle = await client.start_workflow(
            Through.run, Given(large), id=f"{'a' * 16}-{uuid4().hex}", task_queue=queue,
            memo={"note": SECRET},
        )  # fmt: skip
        assert await handle.execute_update(Through.say, SECRET) == SECRET
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        cause = failed.value.cause.__cause__
        assert isinstance(cause, ApplicationError)
        assert cause.message == f"refused {large}"
        assert cause.details == ({"detail": large},)
        assert await handle.query(Through.said) == SECRET
    plain = await temporal.client()
    history = await plain.get_workflow_handle(handle.id).fetch_history()
    raw = b"".join(event.SerializeToString() for event in history.events)
    assert SECRET.encode() not in raw
    shown = "".join(MessageToJson(event) for event in history.events)
    assert "Encoded failure" in shown
    assert "refused" not in shown
    assert "Traceback" not in shown
    assert "test_codec.py" not in shown
    assert len(raw) < INLINE_BYTES
    assert {owner for owner, _ in kept.rows.values()} == {handle.id}


async def test_what_a_job_does_at_once_may_be_more_than_a_message_takes(
    temporal: TemporalServer,
) -> None:
    client = await connected(temporal, data_converter(keys(), Kept()))
    queue = temporal.new_queue()
    async with Worker(
        client, task_queue=queue, workflows=[Fans], activities=[echo],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):  # fmt: skip
        given = Given("x" * 200_000)  # 8 MB in all
        async with asyncio.timeout(60):
            assert (
                await client.execute_workflow(Fans.run, given, id=uuid4().hex, task_queue=queue)
                == 40
            )


async def test_a_job_goes_on_when_its_keys_are_changed_under_way(temporal: TemporalServer) -> None:
    queue = temporal.new_queue()
    workflow_id = f"{'a' * 16}-{uuid4().hex}"

    def worker(client: Client) -> Worker:
        return Worker(
            client, task_queue=queue, workflows=[Waits], max_cached_workflows=0,
            workflow_runner=UnsandboxedWorkflowRunner(),
        )  # fmt: skip

    kept = Kept()
    before = await connected(temporal, data_converter(keys(OLD), kept))
    async with worker(before):
        handle = await before.start_workflow(
            Waits.run, Given("x" * INLINE_BYTES), id=workflow_id, task_queue=queue
        )
        await handle.execute_update(Waits.next, 1)
    after = await connected(temporal, data_converter(keys(NEW, OLD), kept))
    async with worker(after):
        moved = after.get_workflow_handle_for(Waits.run, workflow_id)
        await moved.execute_update(Waits.next, 2)
        async with asyncio.timeout(30):
            assert await moved.result() == Given("x" * INLINE_BYTES, rest={"steps": [1, 2]})


@workflow.defn(sandboxed=False)
class Waits:
    """Counts what it is told, to the second."""

    def __init__(self) -> None:
        self._steps: list[int] = []

    @workflow.run
    async def run(self, given: Given) -> Given:
        await workflow.wait_condition(lambda: len(self._steps) == 2)
        return Given(given.secret, rest={"steps": self._steps})

    @workflow.update
    async def next(self, step: int) -> None:
        self._steps.append(step)


def test_a_converter_of_a_job_differs_by_its_codec_alone() -> None:
    converter = data_converter(keys(), Kept())
    context = WorkflowSerializationContext("default", JOB)
    of_job = converter.with_context(context)
    assert repr(of_job.payload_codec) == f"<JobCodec <Ciphers new> {JOB}>"
    assert repr(converter.payload_codec) == "<JobCodec <Ciphers new> >"
    assert of_job.payload_converter is converter.payload_converter
    assert of_job.failure_converter is converter.failure_converter
    bare = replace(converter, payload_codec=None)
    assert bare.with_context(context) is bare
