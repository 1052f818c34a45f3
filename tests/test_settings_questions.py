"""Settings about questions: the table `[questions.forward]`, and whom callbacks may reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import ForwardSettings, load
from tests.loading import refusal
from tests.processes import ROOT

SERVICE = '[services.hitl]\nurl = "http://h"\n'
TABLE = '[questions.forward]\nservice = "hitl"\nmethod = "PUT"\npath = "/a/{question_id}"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, content: str, name: str = "gateway.toml") -> Path:
    file = tmp_path / name
    file.write_text(content)
    return file


def test_nothing_is_forwarded_by_itself() -> None:
    assert load({}).questions_forward is None


def test_the_table_says_where_answers_go(tmp_path: Path) -> None:
    file = written(tmp_path, SERVICE + TABLE)
    assert load({}, file).questions_forward == ForwardSettings("hitl", "PUT", "/a/{question_id}")
    words = 'approve = "grant"\nreject = "deny"\nother = "note"\n'
    forward = load({}, written(tmp_path, SERVICE + TABLE + words)).questions_forward
    assert forward is not None
    assert (forward.approve, forward.reject, forward.other) == ("grant", "deny", "note")
    assert not forward.decides


def test_the_orchestration_profile_forwards_approvals_to_hitl() -> None:
    forward = load({}, ROOT / "config" / "orchestration.toml").questions_forward
    path = "/api/v1/hitl/approvals/{question_id}/{decision}"
    assert forward == ForwardSettings("hitl", "PUT", path, "approve", "reject")
    assert forward.decides


def test_a_service_of_the_environment_will_do_under_any_of_its_names(tmp_path: Path) -> None:
    file = written(tmp_path, TABLE.replace('"hitl"', '"HITL-service"'))
    forward = load({"HITL_SERVICE_URL": "http://h"}, file).questions_forward
    assert forward is not None
    assert forward.service == "hitl"


def test_a_file_wins_over_what_it_includes_key_by_key(tmp_path: Path) -> None:
    written(tmp_path, SERVICE + TABLE, "profile.toml")
    own = 'include = "profile.toml"\n[questions.forward]\nmethod = "post"\n'
    forward = load({}, written(tmp_path, own)).questions_forward
    assert forward == ForwardSettings("hitl", "POST", "/a/{question_id}")


def test_a_service_that_services_leaves_out_gets_nothing_and_it_is_said(tmp_path: Path) -> None:
    file = written(tmp_path, SERVICE + TABLE + '[services.x]\nurl = "http://x"\n')
    settings = load({"SERVICES": "x"}, file)
    assert settings.questions_forward is None
    assert settings.warnings == (
        "questions.forward names hitl, which SERVICES leaves out: nothing is forwarded",
    )


@pytest.mark.parametrize(
    ("table", "line", "problem"),
    [
        ("questions = 5\n", 1, "questions is 5, expected tables, such as [questions.forward]"),
        ("[questions]\nforward = 5\n", 2, "questions.forward is 5, expected a table"),
        ("[questions]\nx = 5\n", 2, "questions.x is 5, expected a table [questions.x]"),
        ("[questions.x]\n", 1, "questions.x is unknown, expected the table [questions.forward]"),
        ("[questions.forward]\n", 1, "questions.forward has no service"),
        ("[questions.forward]\nservice = 'h'\n", 1, "questions.forward has no method"),
        ("[questions.forward]\nservice = 'h'\nmethod = 'PUT'\n", 1, "has no path"),
        (TABLE, 2, "questions.forward.service is 'hitl', which is not registered"),
        (SERVICE + TABLE + "speed = 1\n", 7, "questions.forward.speed is unknown, expected one of"),
        (SERVICE + TABLE.replace("PUT", "GET"), 5, "method is 'GET', expected post or put or"),
        (SERVICE + TABLE.replace("/a/", "a/"), 6, "path is 'a/{question_id}', expected a path"),
        (SERVICE + TABLE.replace("/a/", "/a/{id}/"), 6, "expected a path such as"),
        (SERVICE + TABLE.replace("/a/", "/a/{/"), 6, "expected a path such as"),
        (SERVICE + TABLE.replace("/a/", "/../"), 6, "expected a path such as"),
        (SERVICE + TABLE.replace("/a/", "/a?x="), 6, "expected a path such as"),
        (SERVICE + TABLE.replace("/a/", "/a b/"), 6, "expected a path such as"),
        (SERVICE + TABLE + "approve = ''\n", 7, "approve is '', expected a text"),
        (SERVICE + TABLE + "approve = '..'\n", 7, "expected a word of at most 64"),
        (SERVICE + TABLE + f"other = '{'x' * 65}'\n", 7, "expected a word of at most 64"),
        (SERVICE + TABLE + "reject = 'Approve'\n", 7, "reject is the same as approve"),
        (SERVICE + TABLE + "approve = 'reject'\n", 3, "is the same as approve"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(
    tmp_path: Path, table: str, line: int, problem: str
) -> None:
    file = written(tmp_path, table)
    said = refusal({}, file)
    assert said.startswith(f"{file}:{line}: ")
    assert problem in said


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.0/8", "10.0.0.1/8", "127.0.0.1", "::1", "fd00::/8", "localhost", "a_b.Internal."],
)
def test_callbacks_may_be_allowed_to_hosts_addresses_and_networks(entry: str) -> None:
    assert load({"CALLBACK_ALLOW": f"x, {entry}"}).callback_allow == ("x", entry)


WRONG = (
    *("http://h", "h:80", "*.internal", "10.0.0.0/33", "10.0.0", "10.0.0.256", "::1/129"),
    *("[::1]", "a b", "-a", "a..b", "/8", "h/8", "127.1", "5"),
)


@pytest.mark.parametrize("entry", WRONG)
def test_what_could_never_match_a_callback_is_refused(entry: str) -> None:
    line = refusal({"CALLBACK_ALLOW": entry})
    assert line.startswith(f"environment: CALLBACK_ALLOW holds {entry!r}, expected hosts")
