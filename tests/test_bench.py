"""The benchmarks' own parts: what they count is right. No test here looks at a time."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench import __main__ as commands
from bench import backend, figures, load, results, wrk
from bench.client import Call, get, post
from bench.framing import read_requests
from bench.judging import Judge, tail_of
from bench.mutations import PREFIX, Case, Ending, cases
from bench.recorder import Recorder, play


@pytest.fixture
async def backend_port() -> AsyncIterator[int]:
    server = await backend.serve(0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def test_percentiles_are_the_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert figures.percentile(ordered, 0.5) == 50
    assert figures.percentile(ordered, 0.99) == 99
    assert figures.percentile(ordered, 1) == 100
    assert figures.percentile(ordered, 0) == 1
    assert figures.percentile([7.0], 0.999) == 7
    with pytest.raises(ValueError, match="no samples"):
        figures.percentile([], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        figures.percentile(ordered, 99)


def test_ratios_are_taken_round_by_round() -> None:
    ratio = figures.ratios([10, 40, 30], [10, 20, 10])
    assert (ratio.median, ratio.low, ratio.high) == (2, 1, 3)
    assert ratio.text(1) == "2.0 (1.0-3.0)"
    assert figures.verdict(1.6, 1.5) == "missed: 1.60, goal ≤ 1.5"
    assert figures.verdict(0.8, 0.7, at_most=False) == "met"


def test_a_section_is_replaced_in_place_and_the_others_stay() -> None:
    document = results.replace_section("# Title\n", "one", "first")
    document = results.replace_section(document, "two", "second")
    document = results.replace_section(document, "three", "third")
    again = results.replace_section(document, "two", "another\n\n| a |")
    assert again == document.replace("second", "another\n\n| a |")
    last = results.replace_section(again, "three", "end")
    assert last.endswith("## three\n\nend\n")
    assert last.count("## ") == 3


def test_results_name_the_machine_and_the_versions(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write("proxy", "| a |", path=path)
    text = path.read_text()
    assert text.startswith("# What was measured")
    assert "## proxy" in text
    assert "uvloop" in text
    assert "Linux" in text


def test_an_unknown_benchmark_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["proxy", "nonsense"])
    assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_the_summary_of_wrk_is_read() -> None:
    said = (
        "  8262 requests in 1.50m, 12MB read\n"
        "  Socket errors: connect 0, read 2, write 0, timeout 1\n"
        "  Non-2xx or 3xx responses: 4\n"
    )
    assert wrk.read(said) == wrk.Run(8262, 7, 90.0)
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.read("unable to connect")


def test_the_json_answer_has_the_size_that_the_results_speak_of() -> None:
    assert len(backend.JSON_BODY) == 209
    json.loads(backend.JSON_BODY)


async def test_a_closed_loop_completes_requests_and_checks_their_bodies(backend_port: int) -> None:
    right = Call(get("/json", backend_port), 209, zlib.crc32(backend.JSON_BODY))
    outcome = await load.closed_loop(backend_port, right, connections=3, seconds=0.05)
    assert outcome.completed >= 3
    assert outcome.failed == 0
    wrong = Call(get("/bytes/70000", backend_port), 69999)
    outcome = await load.closed_loop(backend_port, wrong, connections=2, seconds=0.01)
    assert outcome.reasons == {"70000 bytes instead of 69999": 2}


async def test_an_open_loop_settles_every_request_over_connections_that_end(
    backend_port: int,
) -> None:
    body = bytes(range(256)) * 20
    echo = Call(post("/echo", backend_port, body), len(body), zlib.crc32(body))
    gone = Call(echo.request[:100], vanish=True)

    def pick(number: int) -> Call:
        return gone if number % 10 == 9 else echo

    made = load.OpenLoop(backend_port, pick, rate=2000, seconds=0.1, lifetime=lambda: 5)
    outcome = await made.run()
    assert outcome.reasons == {}
    assert (outcome.completed, outcome.vanished) == (180, 20)
    assert len(outcome.latencies) == 180
    assert outcome.connections > 32


async def test_an_open_loop_counts_refused_connections() -> None:
    server = await backend.serve(0)
    port = server.sockets[0].getsockname()[1]
    loop = load.OpenLoop(port, lambda number: Call(get("/json", port)), rate=1000, seconds=0.02)
    server.close()
    await server.wait_closed()
    outcome = await loop.run()
    assert outcome.failed == 20
    assert outcome.completed == 0


async def test_the_backend_counts_uploads_and_streams_events(backend_port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", backend_port)
    head = b"POST /upload HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"3\r\nabc\r\n0\r\n\r\n")
    assert (await reader.readuntil(b"}")).endswith(b'{"bytes":3}')
    writer.write(get("/stream?rate=1000&count=3", backend_port))
    stream = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert stream.count(b"\ndata: ") == 3
    writer.close()
    await writer.wait_closed()


def test_cases_are_the_same_for_the_same_seed() -> None:
    assert list(cases(7, 50)) == list(cases(7, 50))
    assert list(cases(7, 5, first=20)) == list(cases(7, 50))[20:25]
    assert list(cases(7, 50)) != list(cases(8, 50))


def test_a_strict_reader_stops_where_readers_could_differ() -> None:
    get_one = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
    post_one = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    both = post_one.replace(b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked")
    found = read_requests(get_one + post_one + get_one)
    assert [(message.target, message.body) for message in found] == [
        (b"/a", b""),
        (b"/b", b"abc"),
        (b"/a", b""),
    ]
    assert len(read_requests(get_one + both + get_one)) == 1
    assert len(read_requests(get_one.replace(b"1.1", b"1.0") + get_one)) == 1
    assert not read_requests(post_one[:-1])[0].complete
    chunked = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n"
    assert read_requests(chunked + b"T: 1\r\n\r\n" + get_one)[0].body == b"ab"
    assert not read_requests(chunked)[0].complete


def test_the_tail_of_a_target_is_what_the_backend_should_see() -> None:
    assert tail_of(PREFIX + b"/a%2Fb?c") == b"/a%2Fb?c"
    assert tail_of(b"http://h" + PREFIX) == b"/"
    assert tail_of(PREFIX + b"?a") == b"/?a"
    assert tail_of(PREFIX + b"mark/a") is None
    assert tail_of(b"/other") is None


async def test_the_judge_tells_of_a_request_that_nobody_sent() -> None:
    # A "gateway" that passes bytes on untouched: the backend sees a path that it should not
    judge = Judge()
    recorder = Recorder(judge)
    port = await recorder.start()
    data = b"GET %b/m/1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % PREFIX
    await play(Case(1, 0, (data,), Ending.RESET), port, judge)
    await play(Case(1, 1, (b"\x00\r\n\r\n",), Ending.HALF_CLOSE), port, judge)
    sent = Case(1, 2, (data,), Ending.HALF_CLOSE)
    judge.expect(sent)
    judge.saw(read_requests(data.replace(PREFIX, b""))[0])
    judge.heard(sent, b"HTTP/1.1 200 OK\r\n\r\nanswer-to:poison;")
    await recorder.stop()
    assert any("malformed" in fault for fault in judge.faults)
    assert "case 2 of seed 1: was given the answer to poison" in judge.faults
