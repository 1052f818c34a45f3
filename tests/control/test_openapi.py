"""The OpenAPI document says what the application does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.control.app import PATHS
from gateway.control.openapi import document
from gateway.errors import ERRORS
from tests.control.conftest import HEALTHY, LOCAL, Client, Running

DOCUMENT: dict[str, Any] = document()

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def resolve(ref: str) -> Any:
    """What a `$ref` points at; KeyError when it points nowhere."""
    found: Any = DOCUMENT
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def breaches(schema: dict[str, Any], value: Any, at: str = "$") -> list[str]:
    """Where `value` is not as `schema` says, for the keywords that the document uses."""
    if "$ref" in schema:
        return breaches(resolve(schema["$ref"]), value, at)
    wrong = []
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(isinstance(value, _TYPES[name]) for name in types):
        return [f"{at} is no {types}: {value!r}"]
    if value not in schema.get("enum", [value]) or schema.get("const", value) != value:
        wrong.append(f"{at}: {value!r}")
    if "minimum" in schema and value < schema["minimum"]:
        wrong.append(f"{at}: {value!r}")
    if isinstance(value, dict):
        wrong += [
            f"{at}.{name} missing" for name in schema.get("required", []) if name not in value
        ]
        for name, member in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            wrong += breaches(inner, member, f"{at}.{name}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            wrong += breaches(schema["items"], item, f"{at}[{number}]")
    return wrong


def refs(part: Any) -> Iterator[str]:
    """Every `$ref` below `part`."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from refs(value)


async def test_the_document_is_served(client: Client) -> None:
    answer = await client.get("/openapi.json")
    assert answer.content_type == "application/json"
    body = await answer.json()
    assert body == DOCUMENT
    assert body["openapi"] == "3.1.0"


def test_every_reference_points_somewhere_and_every_component_is_used() -> None:
    used = set(refs(DOCUMENT))
    for ref in used:
        resolve(ref)
    for kind in ("schemas", "headers", "parameters"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in used


def test_the_paths_are_those_that_are_answered() -> None:
    assert set(DOCUMENT["paths"]) == {"/api/v1/{service}/{path}", *PATHS}


def test_operation_ids_are_unique() -> None:
    ids = [
        operation["operationId"]
        for path in DOCUMENT["paths"].values()
        for method, operation in path.items()
        if method not in ("parameters", "description")
    ]
    assert len(ids) == len(set(ids))


def test_parameters_of_the_proxied_path_are_declared() -> None:
    path = DOCUMENT["paths"]["/api/v1/{service}/{path}"]
    declared = [resolve(parameter["$ref"]) for parameter in path["parameters"]]
    in_path = {entry["name"] for entry in declared if entry["in"] == "path" and entry["required"]}
    assert in_path == {"service", "path"}


def test_every_error_of_the_table_is_described() -> None:
    assert set(DOCUMENT["components"]["responses"]) == set(ERRORS)
    limited = DOCUMENT["components"]["responses"]["RATE_LIMITED"]["headers"]
    assert {"Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Reset"} <= set(limited)
    for path in DOCUMENT["paths"].values():
        for method, operation in path.items():
            if method in ("parameters", "description"):
                continue
            for status, response in operation["responses"].items():
                name = response.get("$ref", "").removeprefix("#/components/responses/")
                assert not name or ERRORS[name].status == int(status)


@pytest.mark.parametrize("readiness", ["ready", "starting", "draining"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_answers_are_as_described(
    client: Client, running: Running, path: str, readiness: str
) -> None:
    running.readiness = readiness
    running.services = [HEALTHY, HEALTHY | {"state": "unknown", "endpoints": []}]
    answer = await client.get(path)
    described = DOCUMENT["paths"][path]["get"]["responses"][str(answer.status)]
    schema = described["content"][answer.content_type]["schema"]
    assert breaches(schema, await answer.json()) == []


@pytest.mark.parametrize("accept", ["application/json", "application/problem+json"])
async def test_errors_are_as_described(client: Client, accept: str) -> None:
    answer = await client.get("/metrics", headers={"Accept": accept, "X-Request-ID": "r"})
    response = resolve(DOCUMENT["paths"]["/metrics"]["get"]["responses"]["404"]["$ref"])
    assert breaches(response["content"][accept]["schema"], await answer.json()) == []
    wrong = await client.delete("/metrics", headers={"Accept": accept, **LOCAL})
    response = resolve(DOCUMENT["paths"]["/metrics"]["get"]["responses"]["405"]["$ref"])
    assert breaches(response["content"][accept]["schema"], await wrong.json()) == []
