"""Inputs of jobs: schemas and dataclasses agree, and everything wrong is told with its place."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from jsonschema import Draft202012Validator

from gateway.jobs import models, schemas
from gateway.jobs.input_checks import Registered
from gateway.jobs.inputs import MAX_NESTING, Inputs, argument, job_type, made
from gateway.jobs.refusals import MAX_FAULTS, JobRefusedError
from gateway.jobs.types import JOB_TYPES

REQUEST = "api_request_workflow"
ORCHESTRATION = "multi_service_orchestration_workflow"
ASYNC = "async_request_workflow"
RECOVERY = "error_recovery_workflow"
PROCESS = "business_process_workflow"
SWITCH = "tenant_switch_workflow"

# Members that the gateway alone sets.
OURS = {"target", "has_default"}
DEMO = {"service": "demo"}
# Of each kind the least, and one with everything.
GOOD: list[tuple[str, dict[str, Any]]] = [
    (REQUEST, DEMO),
    (
        REQUEST,
        {
            "service": "Demo-Service",
            "path": "/a/%20b;c=1",
            "method": "PATCH",
            "query": {"a": [1, 2], "b": None},
            "headers": {"x-a": "b\tc", "accept": "é"},
            "body": {"n": 1},
            "transform": {"$result": "/body/n"},
            "retry": {"max_attempts": 2, "initial_seconds": 0.5, "backoff": 1, "max_seconds": 9},
            "timeout_seconds": 29.5,
        },
    ),
    (REQUEST, {**DEMO, "body_base64": "AAE=", "body": None, "retry": None}),
    (ORCHESTRATION, {"steps": [{"id": "a", **DEMO}]}),
    (
        ORCHESTRATION,
        {
            "steps": [
                {"id": "a", **DEMO, "retry": {}, "required": False, "timeout_seconds": 5},
                {
                    "id": "b",
                    "service": "demo",
                    "path": "/x/${/a/body/id}/y",
                    "method": "POST",
                    "body": {"it": {"$result": "/a/body"}},
                    "depends_on": ["a"],
                    "condition": {"pointer": "/a/status", "equals": 200},
                    "compensation": {"service": "demo", "path": "/undo", "method": "DELETE"},
                    "rules": [{"schema": {"type": "object"}, "otherwise": "skip"}],
                },
            ],
            "output": {"all": {"$result": "/b/body"}},
            "timeout_seconds": 3600,
        },
    ),
    (ASYNC, {**DEMO, "callback_url": "https://example.com/", "client_id": "a", "metadata": {}}),
    (RECOVERY, {"request": DEMO, "failure": {"kind": "network"}}),
    (
        RECOVERY,
        {
            "request": DEMO,
            "failure": {"kind": "external", "status": 503, "message": "no", "at": "now"},
            "history": [{"kind": "network"}],
            "strategy": "fallback",
            "fallback": {"request": DEMO, "answer": 1},
            "retry": {"max_attempts": 1},
        },
    ),
    (PROCESS, {"steps": [{"id": "a", "value": 1}]}),
    (PROCESS, {"steps": [{"id": "a", "value": None, "request": None}]}),
    (
        PROCESS,
        {
            "steps": [
                {"id": "a", "request": DEMO, "compensation": DEMO, "rules": [{"schema": True}]},
                {"id": "b", "value": {"x": {"$result": "/a/body"}}},
                {
                    "id": "c",
                    "ask": {
                        "prompt": "Go on with ${/a/status}?",
                        "client_ids": ["alice", "${/b/x}"],
                        "options": ["yes", "no"],
                        "approvers": ["${/b/x}", "bob"],
                        "policy": {"at_least": 1},
                        "forbid_self": True,
                        "expires_in": 60,
                        "default": "no",
                        "reminders": [30],
                        "metadata": {"a": 1},
                    },
                    "continue_when": {"pointer": "/decisions/c", "equals": "yes"},
                },
                {"id": "d", "ask": {"prompt": "Again?", "default": {"$result": "/b/x"}}},
                {"id": "e", "ask": {"prompt": "?", "options": ["${/b/x}"], "default": "a"}},
                {"id": "f", "ask": {"prompt": "?", "schema": {"type": "boolean"}}},
                {"id": "g", "wait_seconds": 5},
            ],
            "data": {"n": 1},
            "output": {"$result": "/input/n"},
        },
    ),
    (
        SWITCH,
        {
            "to_tenant": "b",
            "validate": DEMO,
            "services": [{"id": "x", "request": DEMO, "compensation": DEMO}],
            "from_tenant": "a",
            "user_id": "u",
            "context": {"s": {"$result": "/session_id"}},
            "timeout_seconds": 100,
        },
    ),
]


@pytest.fixture
def inputs() -> Inputs:
    services = {
        "demo": Registered("demo", "/api/v1/demo"),
        "demo_service": Registered("demo", "/api/v1/demo"),
        "other": Registered("other", ""),
    }
    return Inputs(lambda: services, lambda url: "is no good" if "bad" in url else None)


def read(inputs: Inputs, name: str, value: Any, asked_by: str | None = "alice") -> Any:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return inputs.read(job_type(name), body, asked_by)


def refused(inputs: Inputs, name: str, value: Any, code: str = "UNPROCESSABLE") -> JobRefusedError:
    with pytest.raises(JobRefusedError) as caught:
        read(inputs, name, value)
    assert caught.value.rejection.code == code
    return caught.value


def pointers(inputs: Inputs, name: str, value: Any) -> list[str]:
    return [pointer for pointer, _ in refused(inputs, name, value).rejection.details]


# Schemas and dataclasses


def below(schema: dict[str, Any], kind: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every object of a schema with the dataclass that it stands for."""
    if get_origin(kind) in (Union, types.UnionType):
        [kind] = [each for each in get_args(kind) if each is not type(None)]
        assert "null" in schema["type"] or None in schema.get("enum", ()), schema
    if get_origin(kind) is list:
        yield from below(schema["items"], get_args(kind)[0])
    if dataclasses.is_dataclass(kind):
        yield schema, kind
        hints = get_type_hints(kind)
        for name, inner in schema["properties"].items():
            yield from below(inner, hints[name])


@pytest.mark.parametrize("name", JOB_TYPES)
def test_schemas_and_dataclasses_name_the_same_members(name: str) -> None:
    Draft202012Validator.check_schema(schemas.INPUTS[name])
    for schema, kind in below(schemas.INPUTS[name], JOB_TYPES[name].input):
        fields = {each.name: each for each in dataclasses.fields(kind)}
        assert set(schema["properties"]) == set(fields) - OURS, kind
        needed = {
            each.name
            for each in fields.values()
            if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        }
        assert set(schema["required"]) == needed, kind
        assert schema["additionalProperties"] is False
        for member, inner in schema["properties"].items():
            if "default" in inner:
                assert inner["default"] == fields[member].default, (kind, member)


def test_every_kind_has_a_schema() -> None:
    assert set(schemas.INPUTS) == set(JOB_TYPES)


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_what_is_good_becomes_the_dataclass(inputs: Inputs, name: str, value: Any) -> None:
    given = read(inputs, name, value)
    assert type(given) is JOB_TYPES[name].input
    for each in getattr(given, "steps", ()):
        if getattr(each, "ask", None) is not None:
            each.ask.has_default = True  # what was left out is written below
    again = made(JOB_TYPES[name].input, json.loads(json.dumps(dataclasses.asdict(given))))
    assert again == given  # nothing below is left a dict


def test_members_have_their_types(inputs: Inputs) -> None:
    given = read(inputs, *GOOD[4])
    assert isinstance(given.steps[0].retry, models.Retry)
    assert isinstance(given.steps[1].compensation, models.ServiceRequest)
    assert isinstance(given.steps[1].rules[0], models.ResultRule)
    process = read(inputs, *GOOD[10])
    assert process.steps[2].ask.has_default
    assert not process.steps[5].ask.has_default


def test_a_service_is_known_by_its_own_name_from_then_on(inputs: Inputs) -> None:
    assert read(inputs, *GOOD[1]).service == "demo"


def test_who_is_asked_by_default_is_who_started_the_job(inputs: Inputs) -> None:
    process = read(inputs, *GOOD[10])
    assert process.steps[3].ask.client_ids == ["alice"]


# What is wrong


def test_an_unknown_kind_is_404_with_the_known_ones() -> None:
    with pytest.raises(JobRefusedError) as caught:
        job_type("service_breaker_workflow")
    assert caught.value.rejection.code == "NOT_FOUND"
    for name in JOB_TYPES:
        assert name in caught.value.rejection.message


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b'"\\ud800"', b"\xff", b"[" * 5000])
def test_what_is_not_json_is_400(inputs: Inputs, body: bytes) -> None:
    refused(inputs, REQUEST, body, "BAD_REQUEST")


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return {**DEMO, "body": value}


def test_nesting_has_a_bound(inputs: Inputs) -> None:
    read(inputs, REQUEST, nested(MAX_NESTING - 2))
    refused(inputs, REQUEST, nested(MAX_NESTING + 2), "BAD_REQUEST")


BROKEN: list[tuple[str, Any, str]] = [
    (REQUEST, [], ""),
    (REQUEST, {}, ""),
    (REQUEST, {**DEMO, "more": 1}, ""),
    (REQUEST, {**DEMO, "target": "/admin"}, ""),
    (REQUEST, {"service": 1}, "/service"),
    (REQUEST, {**DEMO, "path": "x"}, "/path"),
    (REQUEST, {**DEMO, "path": "/x?y"}, "/path"),
    (REQUEST, {**DEMO, "path": "/x#y"}, "/path"),
    (REQUEST, {**DEMO, "path": "/x y"}, "/path"),
    (REQUEST, {**DEMO, "path": "/x\n"}, "/path"),
    (REQUEST, {**DEMO, "path": "/x\r\ny"}, "/path"),
    (REQUEST, {**DEMO, "path": "/é"}, "/path"),
    (REQUEST, {**DEMO, "path": "\\\\x"}, "/path"),
    (REQUEST, {**DEMO, "method": "CONNECT"}, "/method"),
    (REQUEST, {**DEMO, "method": "get"}, "/method"),
    (REQUEST, {**DEMO, "headers": {"a b": "c"}}, "/headers"),
    (REQUEST, {**DEMO, "headers": {"a\n": "c"}}, "/headers"),
    (REQUEST, {**DEMO, "headers": {"a": "b\n"}}, "/headers/a"),
    (REQUEST, {**DEMO, "headers": {"a": "b\r\nc: d"}}, "/headers/a"),
    (REQUEST, {**DEMO, "headers": {"a": 1}}, "/headers/a"),
    (REQUEST, {**DEMO, "body_base64": "A"}, "/body_base64"),
    (REQUEST, {**DEMO, "timeout_seconds": 31}, "/timeout_seconds"),
    (REQUEST, {**DEMO, "timeout_seconds": 0}, "/timeout_seconds"),
    (REQUEST, {**DEMO, "retry": {"max_attempts": 0}}, "/retry/max_attempts"),
    (ORCHESTRATION, {"steps": []}, "/steps"),
    (ORCHESTRATION, {"steps": [{"id": "a b", **DEMO}]}, "/steps/0/id"),
    (ORCHESTRATION, {"steps": [{"id": "a", **DEMO, "body_base64": "AA=="}]}, "/steps/0"),
    (PROCESS, {"steps": [{"id": "a"}]}, "/steps/0"),
    (PROCESS, {"steps": [{"id": "a", "request": None}]}, "/steps/0"),
    (PROCESS, {"steps": [{"id": "a", "value": 1, "wait_seconds": 1}]}, "/steps/0"),
    (PROCESS, {"steps": [{"id": "a", "request": DEMO, "wait_seconds": 1}]}, "/steps/0"),
    (PROCESS, {"steps": [{"id": "a", "request": DEMO, "value": 1}]}, "/steps/0"),
    (RECOVERY, {"request": DEMO, "failure": {}}, "/failure"),
    (RECOVERY, {"request": DEMO, "failure": {"kind": "network"}, "strategy": "hope"}, "/strategy"),
    (SWITCH, {"to_tenant": "b", "validate": DEMO, "services": []}, "/services"),
]


def failed(**members: Any) -> dict[str, Any]:
    return {"request": DEMO, "failure": {"kind": "network"}, **members}


TOLD: list[tuple[str, Any, tuple[str, str]]] = [
    (REQUEST, [], ("", "Must be an object.")),
    (REQUEST, {}, ("", "Lacks service.")),
    (REQUEST, {**DEMO, "more": 1}, ("", "There is no member more.")),
    (REQUEST, {**DEMO, "b": 1, "a": 1}, ("", "There are no members a, b.")),
    (REQUEST, {**DEMO, "timeout_seconds": 31}, ("/timeout_seconds", "Must be at most 30.")),
    (ORCHESTRATION, {"steps": []}, ("/steps", "Needs at least 1 item.")),
    (SWITCH, {}, ("", "Lacks to_tenant, validate, services.")),
    (
        PROCESS,
        {"steps": [{"id": "a"}]},
        ("/steps/0", "Needs exactly one of value, request, ask, wait_seconds."),
    ),
    (
        ORCHESTRATION,
        {"steps": [{"id": "a b", **DEMO}]},
        ("/steps/0/id", "An id is 1 to 64 of the characters A-Z a-z 0-9 _ . -"),
    ),
    (
        ORCHESTRATION,
        {"steps": [{"id": "a", **DEMO, "depends_on": ["b"]}]},
        ("/steps/0/depends_on/0", "There is no step b."),
    ),
    (
        ORCHESTRATION,
        {"steps": [{"id": "a", **DEMO, "depends_on": ["a"]}]},
        ("/steps/0", "Waits for itself: a -> a."),
    ),
    (
        PROCESS,
        {"steps": [{"id": "a", "value": "${/b}"}]},
        ("/steps/0/value", "There is no result b."),
    ),
    (
        REQUEST,
        {**DEMO, "transform": "${"},
        ("/transform", "A reference without its }; for a literal ${ write $${ in its place."),
    ),
    (REQUEST, {**DEMO, "path": "/a/../x"}, ("/path", "A path has no segment that is . or ..")),
    (
        RECOVERY,
        failed(failure={"kind": "bogus"}),
        (
            "/failure/kind",
            'Must be one of "database", "network", "timeout", "external", "rate_limited",'
            ' "validation", "authorization", "cancelled", "internal".',
        ),
    ),
    (RECOVERY, failed(strategy=1), ("/strategy", "Must be a string or null.")),
]


@pytest.mark.parametrize(("name", "value", "told"), TOLD)
def test_what_is_wrong_is_a_sentence_that_says_what_is_right(
    inputs: Inputs, name: str, value: Any, told: tuple[str, str]
) -> None:
    found = refused(inputs, name, value).rejection
    assert told in found.details
    assert found.message.startswith("Nothing was started. ")


@pytest.mark.parametrize("path", ["/x?y=1", "x", "/x y"])
def test_a_path_that_is_none_is_told_of_without_the_pattern(inputs: Inputs, path: str) -> None:
    [(at, text)] = refused(inputs, REQUEST, {**DEMO, "path": path}).rejection.details
    assert at == "/path"
    assert text.startswith("A path begins with / and holds no query: put that in `query`.")


@pytest.mark.parametrize(
    "path", ["/../x", "/..", "/a/./b", "/a/%2e%2E/b", "/a/..;v=1/b", "/a%2f..%2fb", "/${/a/x}/../b"]
)
def test_a_path_that_climbs_is_refused_at_the_door(inputs: Inputs, path: str) -> None:
    assert pointers(inputs, REQUEST, {**DEMO, "path": path}) == ["/path"]
    first = {"id": "a", **DEMO}
    steps = {"steps": [first, {"id": "b", **DEMO, "path": path}]}
    assert pointers(inputs, ORCHESTRATION, steps) == ["/steps/1/path"]
    undo = {"steps": [{**first, "compensation": {**DEMO, "path": path}}]}
    assert pointers(inputs, ORCHESTRATION, undo) == ["/steps/0/compensation/path"]


@pytest.mark.parametrize("path", ["/${/../../x}", "/a/${?q=1}", "/${\r\nX: y}", "/$${b}", "/${/a"])
@pytest.mark.parametrize("name", [REQUEST, ASYNC])
def test_where_nothing_is_put_in_a_reference_hides_nothing(
    inputs: Inputs, name: str, path: str
) -> None:
    found = refused(inputs, name, {**DEMO, "path": path}).rejection
    assert [at for at, _ in found.details] == ["/path"]


@pytest.mark.parametrize("path", ["/a..b/...", "/.x", "/${/a/../y}/b"])
def test_dots_that_are_no_segment_climb_nowhere(inputs: Inputs, path: str) -> None:
    steps = [{"id": "a", **DEMO}, {"id": "b", **DEMO, "path": path}]
    read(inputs, ORCHESTRATION, {"steps": steps})


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("skip_step", [], 'Nothing was skipped. Lacks the id of a step: send it as {"id": "…"}.'),
        ("skip_step", [{}], 'Nothing was skipped. Lacks the id of a step: send it as {"id": "…"}.'),
        (
            "skip_step",
            ["a b"],
            'Nothing was skipped. Lacks the id of a step: send it as {"id": "…"}.',
        ),
        ("pause", [{"a": 1}], "The job was not told. pause takes nothing: send no body."),
    ],
)
def test_what_a_job_is_told_wrongly_starts_nothing_and_says_so(
    name: str, args: list[Any], message: str
) -> None:
    with pytest.raises(JobRefusedError) as caught:
        argument(name, args)
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "value", "pointer"), BROKEN)
def test_what_no_schema_takes_is_told_with_its_place(
    inputs: Inputs, name: str, value: Any, pointer: str
) -> None:
    assert pointer in pointers(inputs, name, value)


def step(**members: Any) -> dict[str, Any]:
    return {"steps": [{"id": "a", **DEMO, **members}]}


def asking(**members: Any) -> dict[str, Any]:
    return {"steps": [{"id": "a", "ask": {"prompt": "?", **members}}]}


DEEPER: list[tuple[str, Any, str]] = [
    (REQUEST, {"service": "nobody"}, "/service"),
    (REQUEST, {**DEMO, "body": 1, "body_base64": "AA=="}, "/body_base64"),
    (REQUEST, {**DEMO, "transform": "${/nothing}"}, "/transform"),
    (REQUEST, {**DEMO, "transform": {"a": "${"}}, "/transform/a"),
    (ASYNC, {**DEMO, "callback_url": "https://bad/"}, "/callback_url"),
    (ASYNC, {**DEMO, "metadata": {"a": "x" * 16384}}, "/metadata"),
    (ORCHESTRATION, step(compensation={"service": "nobody"}), "/steps/0/compensation/service"),
    (ORCHESTRATION, step(depends_on=["b"]), "/steps/0/depends_on/0"),
    (ORCHESTRATION, step(depends_on=["a"]), "/steps/0"),
    (ORCHESTRATION, step(body="${/b}"), "/steps/0/body"),
    (ORCHESTRATION, step(condition={"pointer": "/a", "eval": "1"}), "/steps/0/condition/eval"),
    (ORCHESTRATION, step(rules=[{"schema": {"type": "x"}}]), "/steps/0/rules/0/schema/type"),
    (
        ORCHESTRATION,
        step(rules=[{"schema": {"$ref": "https://example.com/"}}]),
        "/steps/0/rules/0/schema/$ref",
    ),
    (
        ORCHESTRATION,
        step(rules=[{"schema": {"pattern": "(?=a)"}}]),
        "/steps/0/rules/0/schema/pattern",
    ),
    (RECOVERY, {"request": {"service": "x"}, "failure": {"kind": "network"}}, "/request/service"),
    (
        RECOVERY,
        {
            "request": DEMO,
            "failure": {"kind": "network"},
            "fallback": {"request": {"service": "x"}},
        },
        "/fallback/request/service",
    ),
    (
        RECOVERY,
        {"request": DEMO, "failure": {"kind": "network"}, "strategy": "fallback"},
        "/fallback",
    ),
    (PROCESS, {"steps": [{"id": "a", "request": {"service": "x"}}]}, "/steps/0/request/service"),
    (PROCESS, {"steps": [{"id": "a", "value": "${/b}"}]}, "/steps/0/value"),
    (PROCESS, asking(options=["a", "a"]), "/steps/0/ask/options/1"),
    (PROCESS, asking(schema={"type": "x"}), "/steps/0/ask/schema/type"),
    (PROCESS, asking(schema=True, options=["a"]), "/steps/0/ask/options"),
    (PROCESS, asking(options=["a"], default="b"), "/steps/0/ask/default"),
    (PROCESS, asking(policy="all"), "/steps/0/ask/policy"),
    (PROCESS, asking(client_ids=["no client id"]), "/steps/0/ask/client_ids/0"),
    (PROCESS, asking(expires_in=60, reminders=[90]), "/steps/0/ask/reminders/0"),
    (
        SWITCH,
        {
            "to_tenant": "b",
            "validate": DEMO,
            "services": [{"id": "x", "request": {"service": "y"}}],
        },
        "/services/0/request/service",
    ),
]


@pytest.mark.parametrize(("name", "value", "pointer"), DEEPER)
def test_what_only_the_gateway_can_tell_is_told_with_its_place(
    inputs: Inputs, name: str, value: Any, pointer: str
) -> None:
    assert pointer in pointers(inputs, name, value)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "HOST",
        "Connection",
        "Transfer-Encoding",
        "Content-Length",
        "TE",
        "Upgrade",
        "Expect",
        "Idempotency-Key",
        "X-On-Behalf-Of",
        "X_On_Behalf_Of",
        "X-Forwarded-For",
        "X-Gateway-Identity",
        "X-User-ID",
        "x_api_key",
        "Proxy-Authorization",
        "Prefer",
    ],
)
def test_fields_that_a_job_may_not_hold_are_refused(inputs: Inputs, name: str) -> None:
    assert pointers(inputs, REQUEST, {**DEMO, "headers": {name: "x"}}) == [f"/headers/{name}"]
    undo = step(compensation={**DEMO, "headers": {name: "x"}})
    found = pointers(inputs, ORCHESTRATION, undo)
    assert found == [f"/steps/0/compensation/headers/{name}"]


def test_nobody_is_asked_where_nobody_is_known(inputs: Inputs) -> None:
    for asked_by in (None, "no client id"):
        with pytest.raises(JobRefusedError) as caught:
            read(inputs, PROCESS, asking(), asked_by)
        assert caught.value.rejection.details[0][0] == "/steps/0/ask/client_ids"


def test_a_question_that_is_too_large_is_refused_whole(inputs: Inputs) -> None:
    large = asking(options=[f"{n:0500}" for n in range(64)], prompt="x" * 8192)
    large["steps"][0]["ask"]["metadata"] = {"a": "x" * 16000}
    large["steps"][0]["ask"]["schema"] = None
    refused(inputs, PROCESS, large)


def test_without_any_service_it_is_said_so() -> None:
    inputs = Inputs(dict, lambda url: None)
    [(_, message)] = refused(inputs, REQUEST, DEMO).rejection.details
    assert "none is" in message


def test_faults_have_a_bound_and_repeat_nothing_that_was_given(inputs: Inputs) -> None:
    many = {"steps": [{"id": "!", "service": "demo", "path": "secret"}] * 50}
    found = refused(inputs, ORCHESTRATION, many).rejection
    assert len(found.details) == MAX_FAULTS
    assert "secret" not in str(found)
    assert "/steps/0" in found.message
    many = {"steps": [{"id": f"s{n}", "service": "nobody"} for n in range(50)]}
    assert len(refused(inputs, ORCHESTRATION, many).rejection.details) == MAX_FAULTS


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        (REQUEST, {**DEMO, "headers": {"N" * 100_000: 5}}, "/headers"),
        (REQUEST, {**DEMO, "transform": {"N" * 100_000: "${/n}"}}, "/transform"),
        (REQUEST, {**DEMO, "transform": f"${{/{'N' * 100_000}}}"}, "/transform"),
        (ORCHESTRATION, {"steps": [{"id": "a", **DEMO, "body": f"${{/{'N' * 100_000}}}"}]},
         "/steps/0/body"),
        (ORCHESTRATION, {"steps": [{"id": "a", **DEMO, "body": {"N" * 100_000: ["${/n}"] * 4000}}]},
         "/steps/0/body"),
        (PROCESS, {"steps": [{"id": "a", "value": {"N" * 100_000: ["${/n}"] * 4000}}]},
         "/steps/0/value"),
        (ORCHESTRATION, {"steps": [{"id": "a", **DEMO, "condition": {"N" * 100_000: 1}}]},
         "/steps/0/condition"),
    ],
)  # fmt: skip
def test_a_long_name_is_neither_told_back_nor_kept_for_each_fault(
    inputs: Inputs, name: str, value: Any, where: str
) -> None:
    tracemalloc.start()
    try:
        found = refused(inputs, name, value).rejection
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.details[0][0].startswith(where)
    assert len(found.message) + sum(len(at) + len(text) for at, text in found.details) < 50_000
    # Each of 4,000 places with the name in it would be 400 MB.
    assert most < 50_000_000


def wrong(name: str, value: Any) -> list[str]:
    """The pointers of what is wrong with an input."""
    inputs = Inputs(lambda: {"demo": Registered("demo", "/api/v1/demo")}, lambda _url: None)
    with pytest.raises(JobRefusedError) as refused:
        inputs.read(job_type(name), json.dumps(value).encode(), "ann")
    return [at for at, _ in refused.value.rejection.details]


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        (ORCHESTRATION, {"steps": [{"id": "a", **DEMO, "depends_on": [7] * 600}]},
         "/steps/0/depends_on"),
        (ORCHESTRATION, {"steps": [{}] * 600}, "/steps"),
        (RECOVERY, failed(history=[{}] * 101), "/history"),
        (REQUEST, {**DEMO, "headers": {f"h {n}": 7 for n in range(65)}}, "/headers"),
    ],
)  # fmt: skip
def test_what_is_too_many_is_not_looked_through(name: str, value: Any, where: str) -> None:
    assert wrong(name, value) == [where]


def test_lists_of_texts_are_looked_through_all_the_same() -> None:
    step = {"id": "a", **DEMO, "depends_on": ["a b", "x" * 65, 7, "a"]}
    at = "/steps/0/depends_on"
    assert wrong(ORCHESTRATION, {"steps": [step]}) == [f"{at}/0", f"{at}/1", f"{at}/2"]


@pytest.mark.parametrize("body", ["${/a}" * 5001, [{"$result": "/a"}] * 5001])
def test_references_have_a_bound_in_number(body: Any) -> None:
    steps = [{"id": "a", **DEMO}, {"id": "b", **DEMO, "body": body}]
    assert wrong(ORCHESTRATION, {"steps": steps}) == [""]
    inputs = Inputs(lambda: {"demo": Registered("demo", "/api/v1/demo")}, lambda _url: None)
    inputs.read(job_type(ASYNC), json.dumps(DEMO | {"body": body}).encode(), "ann")


def test_no_job_tells_its_end_to_anothers_stream() -> None:
    stream = f"job:{'0' * 16}-{'1' * 32}"
    assert wrong(ASYNC, {**DEMO, "client_id": stream}) == ["/client_id"]
    ask = {"prompt": "Well?", "client_ids": [stream]}
    assert wrong(PROCESS, {"steps": [{"id": "a", "ask": ask}]}) == ["/steps/0/ask/client_ids/0"]
