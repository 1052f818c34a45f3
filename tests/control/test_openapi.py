"""The OpenAPI document holds together, and names what the application and the contract name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from gateway.control import internal
from gateway.control.app import PATHS
from gateway.errors import ERRORS
from tests.control.conftest import Client
from tests.control.describing import DOCUMENT, EVENTS, SCHEMAS, breaches, operations, resolve

QUESTIONS = "/api/v1/questions"

# The contract's paths: method, path, and the statuses it names for each.
CONTRACT = {
    ("get", EVENTS): "200 400 401 403 406 429 503",
    ("post", EVENTS): "202 400 401 403 409 413 422 429 503",
    ("post", f"{EVENTS}/ticket"): "201 400 401 403",
    ("post", f"{EVENTS}/response"): "200 400 401 403 404 409 410 422 429 503 504",
    ("get", f"{EVENTS}/questions"): "200 400 401 503 504",
    ("post", QUESTIONS): "200 201 400 401 403 409 422 503 504",
    ("get", QUESTIONS): "200 400 401 503 504",
    ("get", f"{QUESTIONS}/{{question_id}}"): "200 401 404 503 504",
    ("delete", f"{QUESTIONS}/{{question_id}}"): "200 401 403 404 409 503 504",
    (
        "post",
        f"{QUESTIONS}/{{question_id}}/response",
    ): "200 400 401 403 404 409 410 422 429 503 504",
    ("get", f"{QUESTIONS}/{{question_id}}/wait"): "200 202 400 401 404 503 504",
    **{
        (method, prefix + below): statuses
        for prefix in ("/api/v1/workflows", "/api/workflows")
        for method, below, statuses in (
            ("get", "", "200 400 401 403 422 429 503"),
            ("post", "/{type}", "200 202 400 401 403 404 413 422 429 503"),
            ("get", "/{operation_id}/status", "200 401 403 404 429 503"),
            ("get", "/{operation_id}/result", "200 202 400 401 403 404 409 429 503"),
            ("get", "/{operation_id}/stream", "200 204 400 401 403 404 406 429 503"),
            ("get", "/{operation_id}/history", "200 401 403 404 429 503"),
            ("post", "/{operation_id}/cancel", "202 401 403 404 409 429 503"),
            ("post", "/{operation_id}/terminate", "200 401 403 404 409 429 503"),
            ("post", "/{operation_id}/signal/{name}", "202 400 401 403 404 409 429 503"),
            ("post", "/{operation_id}/update/{name}", "200 400 401 403 404 409 422 429 503"),
        )
    },
    ("get", "/approvals"): "200",
    ("get", "/health"): "200 503",
    ("get", "/health/live"): "200",
    ("get", "/health/ready"): "200 503",
    ("get", "/metrics"): "200 404",
    ("get", "/openapi.json"): "200",
    ("get", "/admin/services"): "200 404 405",
    ("post", "/admin/services/{name}/endpoints"): "201 400 404 409 413 422",
    ("delete", "/admin/services/{name}/endpoints"): "200 400 404 409 422",
    ("post", "/admin/services/{name}/endpoints/drain"): "200 400 404 409 422",
    ("post", "/admin/services/{name}/breaker"): "200 400 404 422",
    ("get", "/admin/limits"): "200 400 404",
    ("get", "/admin/limits/rules"): "200 404 503 504",
    ("put", "/admin/limits/rules"): "200 400 404 409 422 503 504",
    ("delete", "/admin/limits/rules"): "200 400 404 422 503 504",
    ("get", "/admin/connections"): "200 400 404",
    ("post", "/admin/tokens/revoke"): "200 400 404 422 503 504",
    ("post", "/admin/reload"): "200 400 404 422",
}


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
    shown = set(PATHS) - set(internal.PATHS)  # for the gateway's own workers alone
    assert set(DOCUMENT["paths"]) == {"/api/v1/{service}/{path}", *shown}


async def test_every_route_of_the_application_is_described(client: Client) -> None:
    assert client.app is not None
    for route in client.app.router.routes():
        assert route.resource is not None
        if route.resource.canonical.startswith("/internal/"):
            continue
        described = DOCUMENT["paths"][route.resource.canonical]
        # A HEAD that aiohttp adds to a GET, and a path that takes any method, need no words.
        assert route.method in ("HEAD", "*") or route.method.lower() in described


def test_the_operations_are_those_of_the_contract() -> None:
    own = {
        (method, path): operation
        for method, path, operation in operations()
        if path != "/api/v1/{service}/{path}" and method != "head"
    }
    assert set(own) == set(CONTRACT)
    for called, statuses in CONTRACT.items():
        assert set(statuses.split()) <= set(own[called]["responses"]), called


def test_every_parameter_of_a_path_is_declared() -> None:
    for path, item in DOCUMENT["paths"].items():
        declared = [resolve(parameter["$ref"]) for parameter in item.get("parameters", [])]
        in_path = {entry["name"] for entry in declared if entry["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert all(entry["required"] for entry in declared if entry["in"] == "path")


def test_operation_ids_are_unique_and_tags_are_declared() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == tags


def test_security_names_schemes_that_are_declared() -> None:
    schemes = set(DOCUMENT["components"]["securitySchemes"])
    used = [DOCUMENT["security"], *(o["security"] for *_, o in operations() if "security" in o)]
    assert {name for choice in used for needed in choice for name in needed} == schemes


def test_every_error_of_the_table_is_described() -> None:
    described = DOCUMENT["components"]["responses"]
    assert set(described) == set(ERRORS)
    limited = described["RATE_LIMITED"]["headers"]
    assert {"Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Reset"} <= set(limited)
    for _, _, operation in operations():
        for status, response in operation["responses"].items():
            name = response.get("$ref", "").removeprefix("#/components/responses/")
            assert not name or ERRORS[name].status == int(status)


def test_every_schema_is_one_and_every_example_fits() -> None:
    def examples(part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        if isinstance(part, dict):
            for value in part.get("examples", {}).values():
                yield part["schema"], value["value"]
            for value in part.values():
                yield from examples(value)

    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    for entry in DOCUMENT["components"]["parameters"].values():
        Draft202012Validator.check_schema(entry["schema"])
    found = list(examples(DOCUMENT["paths"]))
    assert found
    for schema, example in found:
        assert breaches(schema, example) == []
