"""The benchmarks of event streams: what they count is right. No test here looks at a time."""

from __future__ import annotations

import json
import socket
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import processes, questions
from bench.frames import EVENT_TYPE, Target, answer_end, event_data, read_piece
from bench.processes import Process
from bench.subscriber_process import SubscriberProcess
from bench.subscribers import Subscribers

PEERS = Path(processes.__file__).with_name("peers")


def frame(number: int, sequence: int, epoch: str = "abcdefgh") -> bytes:
    head = f"id: {epoch}-{sequence}\nevent: {EVENT_TYPE}\n".encode()
    return head + b'data: {"data":%b}\n\n' % event_data(number, 7)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def start(script: str, directory: Path) -> Process:
    port = processes.free_port()
    command = [sys.executable, str(PEERS / script), str(port)]
    output = directory / f"{script}.log"
    process = processes.start(script, command, port=port, output=output, cores={0, 1})
    try:
        process.wait_until_ready()
    except processes.NotReadyError:
        process.stop()
        raise
    return process


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Process]:
    process = start("bare.py", tmp_path)
    yield process
    process.stop()


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Process]:
    process = start("aiohttp_queue.py", tmp_path)
    yield process
    process.stop()


def test_events_are_read_from_chunks_wherever_these_are_cut() -> None:
    wire = chunk(frame(1, 11) + frame(2, 12)) + chunk(frame(3, 13))
    whole, raw, text = read_piece(wire, chunked=True)
    assert (whole.first, whole.last, whole.count, whole.offset) == (1, 3, 3, b"abcdefgh10")
    assert (whole.faults, raw, text) == ((), b"", b"")
    assert whole.ages_from_ns == (7, 7, 7)
    for at in range(len(wire)):
        first, raw, text = read_piece(wire[:at], chunked=True)
        second, raw, text = read_piece(raw + wire[at:], text, chunked=True)
        assert (raw, text) == (b"", b"")
        assert first.count + second.count == 3
        assert max(first.last, second.last) == 3


def test_a_body_without_chunks_is_read_too() -> None:
    piece, raw, text = read_piece(b": hi\n\n" + frame(1, 1) + b"id: ", chunked=False)
    assert (piece.count, raw, text) == (1, b"", b"id: ")
    with pytest.raises(ValueError, match="CRLF"):
        read_piece(b"2\r\nabcd\r\n", chunked=True)


def test_within_a_piece_a_hole_a_reset_and_an_id_out_of_step_are_faults() -> None:
    def faults(text: bytes) -> tuple[str, ...]:
        return read_piece(text, chunked=False)[0].faults

    assert faults(frame(1, 1) + frame(3, 3)) == ("3 (abcdefgh0) after 1 (abcdefgh0)",)
    assert faults(frame(1, 1) + frame(2, 3)) == ("2 (abcdefgh1) after 1 (abcdefgh0)",)
    assert faults(b"event: stream.reset\ndata: {}\n\n") == ("event stream.reset",)
    assert faults(b"event: heartbeat\ndata: {}\n\n") == ()


def test_answers_on_one_connection_are_told_apart() -> None:
    one = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
    chunked = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert answer_end(one + chunked) == len(one)
    assert answer_end(chunked + one) == len(chunked)
    assert answer_end(one[:-1]) == 0
    assert answer_end(chunked[:-1]) == 0
    assert answer_end(one[:20]) == 0


def test_the_gateway_is_handed_a_list_and_its_peers_single_events() -> None:
    events = [(1, 5), (2, 6)]
    (request,) = Target("gateway", 80).publish("c", events)
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/events/c HTTP/1.1\r\n")
    assert [event["data"]["n"] for event in json.loads(body)] == [1, 2]
    (alone,) = Target("gateway", 80).publish("c", events[:1])
    assert json.loads(alone.partition(b"\r\n\r\n")[2])["event_type"] == EVENT_TYPE
    each = Target("nchan", 80).publish("c", events)
    assert [json.loads(r.partition(b"\r\n\r\n")[2])["data"]["n"] for r in each] == [1, 2]


def test_subscribers_count_every_event_of_a_bare_server(bare: Process) -> None:
    subscribers = Subscribers(Target("bare", bare.port))
    assert subscribers.open(7, 1) == {"opened": 7}
    done = subscribers.publish(times=3, events=1)
    assert (done["delivered"], done["faults"]) == (21, {})
    done = subscribers.publish(times=2, events=10)
    assert (done["delivered"], done["faults"]) == (140, {})
    assert subscribers.close() == {"faults": {}}


def test_subscribers_tell_what_is_lost_doubled_and_ended(bare: Process) -> None:
    subscribers = Subscribers(Target("bare", bare.port))
    subscribers.open(2, 1)
    subscribers.publish(times=1, events=1)
    with socket.create_connection(("127.0.0.1", bare.port)) as other:
        for number in (4, 4):
            (request,) = Target("bare", bare.port).publish("bench-0", [(number, 1)])
            other.sendall(request)
            assert other.recv(1000).startswith(b"HTTP/1.1 202")
            subscribers.publish(times=0, events=1)  # so that each comes by itself
    faults = subscribers.publish(times=1, events=1)["faults"]
    # 2 and 3 never came, 4 came twice, then 2: behind what was seen
    assert faults == {"lost": 4, "doubled": 8}
    bare.stop()
    assert subscribers.publish(times=0, events=1)["faults"] == faults | {"stream ended": 2}


def test_subscribers_of_many_client_ids_get_each_event_once(queues: Process) -> None:
    subscribers = Subscribers(Target("aiohttp-queue", queues.port))
    subscribers.open(12, 4)
    subscribers.close()
    subscribers.open(4, 4)
    done = subscribers.spread(rate=500, seconds=0.2, seed=1)
    assert (done["published"], done["delivered"]) == (100, 100)
    assert len(subscribers.ages_ns) == 100
    # The server's numbers go on where the first four client ids were left, so they stay in step
    assert done["faults"] == {}
    subscribers.close()


def test_streams_are_also_read_once_a_second(queues: Process) -> None:
    subscribers = Subscribers(Target("aiohttp-queue", queues.port))
    subscribers.open(20, 1)
    done = subscribers.lazily(rate=100, seconds=0.1)
    assert done == {"published": 10, "seconds": 0.1, "faults": {}}
    subscribers.close()


def test_a_process_of_subscribers_obeys(bare: Process) -> None:
    with SubscriberProcess("bare", bare.port) as subscribers:
        assert subscribers.ask("open", count=3, clients=1) == {"opened": 3}
        assert subscribers.ask("publish", times=2, events=2)["delivered"] == 12


def test_a_loop_of_questions_accounts_for_its_answers() -> None:
    run = questions.Run(80, questions.Doing.BOTH, 1e9, deque(), 0)
    run._until = float("inf")
    asking = run.request()
    assert asking is not None
    assert asking[0]
    body = json.loads(asking[1].partition(b"\r\n\r\n")[2])
    assert body["client_ids"] == ["bench-1"]
    run.settled(201, b'{"question_id":"q-1"}', 0.5, asking=True)
    answering = run.request()
    assert answering is not None
    assert not answering[0]
    assert answering[1].startswith(b"POST /api/v1/questions/q-1/response ")
    run.settled(200, b"{}", 0.25, asking=False)
    run.settled(409, b"{}", 0.25, asking=False)
    assert (run.outcome.asked, run.outcome.answered) == ([0.5], [0.25])
    assert run.outcome.faults == {"status 409": 1}
