"""The terms that the OpenAPI document is written in: references, answers, parameters, objects."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import ERRORS

Schema = dict[str, object]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC."}
ANYTHING: Schema = {"description": "Any JSON value."}

LIMIT_HEADERS = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
)


def ref(kind: str, name: str) -> Schema:
    """A reference to a component; `kind` is schemas, headers, parameters or responses."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Schema:
    """A reference to a schema."""
    return ref("schemas", name)


def obj(required: tuple[str, ...], **properties: Schema) -> Schema:
    """The schema of an object; further members are not ruled out."""
    return {"type": "object", "required": list(required), "properties": properties}


def strict(required: tuple[str, ...], **properties: Schema) -> Schema:
    """The schema of an object that has no further members: a request's body."""
    return obj(required, **properties) | {"additionalProperties": False}


def listed(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """The schema of a list."""
    bounds: Schema = {"minItems": least} if least else {}
    return {"type": "array", "items": items} | bounds | ({} if most is None else {"maxItems": most})


def or_null(given: Schema) -> Schema:
    """The schema, or null."""
    return {"oneOf": [given, {"type": "null"}]}


def answer(
    description: str, content_type: str, content: Schema, headers: Iterable[str] = ()
) -> Schema:
    """A response with content; `headers` are names of components besides X-Request-ID."""
    return {
        "description": description,
        "headers": {name: ref("headers", name) for name in ("X-Request-ID", *headers)},
        "content": {content_type: {"schema": content}},
    }


def errors(*codes: str) -> Schema:
    """Responses by status for these codes of the error table, in the order of their statuses."""
    statuses = sorted((ERRORS[code].status, code) for code in codes)
    return {str(status): ref("responses", code) for status, code in statuses}


def parameter(name: str, where: str, description: str, given: Schema = TEXT) -> Schema:
    """A parameter; `where` is path, query or header."""
    required: Schema = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, "description": description, "schema": given} | required


def parameters(*names: str) -> list[Schema]:
    """References to parameters."""
    return [ref("parameters", name) for name in names]


def json_body(content: Schema, **examples: object) -> Schema:
    """A request body of JSON that must be there; examples by name."""
    media: Schema = {"schema": content}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": media}}


def operation(
    operation_id: str, tag: str, summary: str, responses: Schema, **more: object
) -> Schema:
    """One method of a path; `more`: parameters, requestBody, security, description."""
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": responses,
    }


def head_of(get: Schema, responses: Schema) -> Schema:
    """HEAD for a GET: the same head, no content."""
    head: Schema = {name: get[name] for name in ("parameters", "security") if name in get}
    return {
        "operationId": f"{get['operationId']}Head",
        "tags": get["tags"],
        "summary": f"{get['summary']} (head only)",
        **head,
        "responses": {
            status: {"description": "As for GET, without the content."} for status in responses
        },
    }
