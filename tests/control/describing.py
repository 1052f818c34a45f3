"""The OpenAPI document as tests ask it: what it describes, and where a value breaks a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from gateway.control.openapi import document

DOCUMENT: dict[str, Any] = document()
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]

EVENTS = "/api/v1/events/{client_id}"


def resolve(ref: str) -> Any:
    """What a `$ref` points at; KeyError when it points nowhere."""
    found: Any = DOCUMENT
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def breaches(schema: dict[str, Any], value: Any) -> list[str]:
    """Where `value` is not as a schema of the document says."""
    validator = Draft202012Validator(schema | {"components": DOCUMENT["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def valid(name: str, value: Any) -> bool:
    """Whether the schema of that name takes the value."""
    return not breaches(SCHEMAS[name], value)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation of everything in the document."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method not in ("parameters", "description"):
                yield method, path, operation


def content(path: str, method: str, status: int) -> dict[str, Any]:
    """The schema of a JSON answer."""
    response = DOCUMENT["paths"][path][method]["responses"][str(status)]
    found: dict[str, Any] = response["content"]["application/json"]["schema"]
    return found
