"""The part of the OpenAPI document about questions: asking, answering, the inbox, waiting."""

from __future__ import annotations

from gateway.control.openapi_events import CLIENT_ID
from gateway.control.openapi_terms import (
    ANYTHING,
    COUNT,
    LIMIT_HEADERS,
    MOMENT,
    TEXT,
    Schema,
    answer,
    errors,
    json_body,
    listed,
    obj,
    operation,
    or_null,
    parameter,
    schema,
    strict,
)
from gateway.control.openapi_terms import parameters as refs
from sse.question import STATUSES
from sse.question_body import (
    DEFAULT_SECONDS,
    LEAST_SECONDS,
    MAX_APPROVERS,
    MAX_CLIENT_IDS,
    MAX_NAME_CHARACTERS,
    MAX_OPTIONS,
    MAX_PROMPT_CHARACTERS,
    MAX_REMINDERS,
    MAX_URL_CHARACTERS,
    MOST_SECONDS,
)

_LONGEST_WAIT_SECONDS = 300
_MOST_A_PAGE = 200

_AUDITED = (
    "asked",
    "delivered",
    "seen",
    "answered",
    "refused",
    "reminded",
    "expired",
    "withdrawn",
    "forwarded",
    "called_back",
)

_STORE_AWAY = ("SERVICE_UNAVAILABLE", "TIMEOUT")
_WHO = ("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND")

# Question ids that an asker gives are made as client ids are.
QUESTION_ID: Schema = CLIENT_ID
STATUS: Schema = {"type": "string", "enum": list(STATUSES)}


def paths() -> Schema:
    """Paths below /api/v1/questions, and those of a client id's questions."""
    return {
        "/api/v1/events/{client_id}/response": {
            "parameters": refs("client_id"),
            "post": _answering("answerForClient", "ResponseOnStream", "Answer a question"),
        },
        "/api/v1/events/{client_id}/questions": {
            "parameters": refs("client_id"),
            "get": operation(
                "listClientQuestions",
                "questions",
                "The open questions of a client id",
                {"200": _json("Newest first.", "QuestionList")}
                | errors("BAD_REQUEST", "METHOD_NOT_ALLOWED", *_WHO, *_STORE_AWAY),
                parameters=refs("page_token"),
            ),
        },
        "/api/v1/questions": {"post": _asking(), "get": _inbox()},
        "/api/v1/questions/{question_id}": {
            "parameters": refs("question_id"),
            "get": operation(
                "getQuestion",
                "questions",
                "One question, with its answer, votes and audit trail",
                {"200": _json("The question.", "QuestionDetails")}
                | errors("UNAUTHORIZED", "NOT_FOUND", "METHOD_NOT_ALLOWED", *_STORE_AWAY),
            ),
            "delete": operation(
                "withdrawQuestion",
                "questions",
                "Withdraw a question, by its asker or the scope admin",
                {"200": _json("Withdrawn, now or before.", "Question")}
                | errors(*_WHO, "CONFLICT", "GONE", *_STORE_AWAY),
            ),
        },
        "/api/v1/questions/{question_id}/response": {
            "parameters": refs("question_id"),
            "post": _answering("answerQuestion", "Response", "Answer a question by its id"),
        },
        "/api/v1/questions/{question_id}/wait": {
            "parameters": refs("question_id"),
            "get": operation(
                "waitForAnswer",
                "questions",
                "Wait until a question is decided",
                {
                    "200": _json("Decided: answered, expired or withdrawn.", "QuestionDetails"),
                    "202": _json("Not yet: ask again.", "QuestionDetails"),
                }
                | errors(
                    "BAD_REQUEST",
                    "UNAUTHORIZED",
                    "NOT_FOUND",
                    "METHOD_NOT_ALLOWED",
                    *_STORE_AWAY,
                ),
                parameters=refs("timeout"),
            ),
        },
    }


def _json(description: str, name: str, *headers: str) -> Schema:
    return answer(description, "application/json", schema(name), headers)


def _asking() -> Schema:
    return operation(
        "ask",
        "questions",
        "Ask a question",
        {
            "200": _json("Asked before under this id, with the same body.", "Question"),
            "201": _json("Asked and published.", "Question", "Location"),
        }
        | errors(
            "BAD_REQUEST",
            "UNAUTHORIZED",
            "FORBIDDEN",
            "CONFLICT",
            "PAYLOAD_TOO_LARGE",
            "UNPROCESSABLE",
            "RATE_LIMITED",
            *_STORE_AWAY,
        ),
        description=(
            "Needs the scope `questions:ask` or `events:write`. The question is kept before anyone"
            " sees it. Publishing an event `question` with the same object as its data does the"
            " same."
        ),
        requestBody=json_body(
            schema("NewQuestion"),
            approval={
                "client_ids": ["alice"],
                "prompt": "Deploy version 7?",
                "options": ["approve", "reject"],
                "expires_in": 3600,
            },
        ),
    )


def _inbox() -> Schema:
    return operation(
        "listQuestions",
        "questions",
        "The inbox: questions that the caller may see",
        {"200": _json("Newest first.", "QuestionList")}
        | errors("BAD_REQUEST", "UNAUTHORIZED", "METHOD_NOT_ALLOWED", *_STORE_AWAY),
        parameters=refs("status", "assignee", "page_token"),
    )


def _answering(operation_id: str, body: str, summary: str) -> Schema:
    return operation(
        operation_id,
        "questions",
        summary,
        {
            "200": _json(
                "Recorded; with votes missing the question is still open.",
                "Recorded",
                "Idempotent-Replayed",
                *LIMIT_HEADERS,
            )
        }
        | errors(
            "BAD_REQUEST",
            *_WHO,
            "CONFLICT",
            "GONE",
            "PAYLOAD_TOO_LARGE",
            "UNPROCESSABLE",
            "RATE_LIMITED",
            *_STORE_AWAY,
        ),
        description=(
            "Exactly one answer wins. Answered already: 409, whose error has `answered_by`,"
            " `answered_at` and, for who may read the question, `response`. Expired or withdrawn:"
            " 410. Not visible to the caller: 404; not one of its approvers: 403. Not as the"
            " question's schema says: 422 with JSON pointers."
        ),
        parameters=refs("Idempotency-Key"),
        requestBody=json_body(schema(body)),
    )


def schemas() -> Schema:
    """Questions, and what asking, listing and answering take and give."""
    given = _members_given()
    added: dict[str, Schema] = {
        "question_id": QUESTION_ID,
        "status": STATUS,
        "asked_at": MOMENT,
        "asked_by": TEXT,
        "expires_at": MOMENT,
        "job": TEXT | {"description": "The operation id of the job that asks; else not there."},
    }
    outcome: dict[str, Schema] = {
        "response": ANYTHING,
        "answered_by": schema("AnsweredBy"),
        "answered_at": or_null(MOMENT),
    }
    answered: Schema = {"oneOf": [{"type": "null"}, obj((), **outcome, comment=TEXT)]}
    whole = given | added
    needed = ("question_id", "client_ids", "prompt", "status", "asked_at", "asked_by", "expires_at")
    response: dict[str, Schema] = {"response": ANYTHING, "comment": TEXT}
    return {
        "NewQuestion": strict(("client_ids", "prompt"), **given)
        | {
            "allOf": [
                {"not": {"required": ["expires_at", "expires_in"]}},
                {"not": {"required": ["schema", "options"]}},
            ]
        },
        "Question": obj(needed, **whole),
        "QuestionDetails": obj(
            needed,
            **whole,
            answer=answered,
            votes=listed({"type": "object"}),
            audit=listed(schema("AuditEntry")),
        ),
        "QuestionList": obj(
            ("questions", "next_page_token"),
            questions=listed(schema("Question"), most=_MOST_A_PAGE),
            next_page_token={"type": ["string", "null"], "description": "null: the last page."},
        ),
        "AuditEntry": obj(
            ("at", "what"),
            at=MOMENT,
            what={
                "type": "string",
                "enum": list(_AUDITED),
            },
            who={"type": ["string", "null"]},
            detail=ANYTHING,
        ),
        "AnsweredBy": {
            "type": ["string", "array", "null"],
            "items": TEXT,
            "description": (
                "A subject (several where several had to answer), `anonymous`, or `default` when"
                " the default answer took effect."
            ),
        },
        "Response": strict(("response",), **response),
        "ResponseOnStream": strict(
            ("question_id", "response"), question_id=QUESTION_ID, **response
        ),
        "Recorded": obj(
            ("question_id", "status"),
            question_id=QUESTION_ID,
            status={"type": "string", "enum": ["answered", "open"]},
            **outcome,
            votes=COUNT,
            needed=COUNT,
        ),
        "QuestionResolved": obj(
            ("question_id", "status", "response", "answered_by", "answered_at"),
            question_id=QUESTION_ID,
            status={"type": "string", "enum": ["answered", "expired", "withdrawn"]},
            **outcome,
        ),
    }


def _members_given() -> dict[str, Schema]:
    """What an asker says of a question."""
    name: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS}
    before: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS}
    return {
        "question_id": QUESTION_ID | {"description": "Given by the asker, else a UUIDv7."},
        "client_ids": _different(CLIENT_ID, MAX_CLIENT_IDS, "Whom it is shown to."),
        "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARACTERS},
        "schema": {
            "type": ["object", "boolean"],
            "description": (
                "JSON Schema 2020-12 of the answer, at most 16 KiB, with local `$ref` only and"
                " patterns that a linear-time engine takes. None: any JSON value."
            ),
        },
        "options": _different(name, MAX_OPTIONS, "The same as a schema with this enum."),
        "approvers": _different(
            name, MAX_APPROVERS, "Subjects or scopes that may answer; none: who may read it."
        ),
        "policy": {
            "oneOf": [
                {"enum": ["first", "all"]},
                strict(
                    ("at_least",),
                    at_least={"type": "integer", "minimum": 1, "maximum": MAX_APPROVERS},
                ),
            ],
            "default": "first",
            "description": "How many answers decide; `all` needs `approvers`.",
        },
        "forbid_self": {
            "type": "boolean",
            "default": False,
            "description": "The asker may not answer.",
        },
        "expires_at": MOMENT,
        "expires_in": {
            "type": "number",
            "minimum": LEAST_SECONDS,
            "maximum": MOST_SECONDS,
            "default": DEFAULT_SECONDS,
            "description": "Seconds.",
        },
        "default": ANYTHING | {"description": "The answer when none came in time."},
        "reminders": listed(before, most=MAX_REMINDERS) | {"description": "Seconds before expiry."},
        "callback_url": {
            "type": "string",
            "format": "uri",
            "maxLength": MAX_URL_CHARACTERS,
            "description": "Gets the decision, signed; needs WEBHOOK_SECRET.",
        },
        "run_id": name,
        "node_id": name,
        "metadata": {"type": "object", "description": "Anything of the asker's, at most 16 KiB."},
    }


def _different(items: Schema, most: int, description: str) -> Schema:
    return listed(items, least=1, most=most) | {"uniqueItems": True, "description": description}


def parameters() -> Schema:
    """Parameters of these paths."""
    wait: Schema = {
        "type": "number",
        "minimum": 0,
        "maximum": _LONGEST_WAIT_SECONDS,
        "default": 30,
    }
    return {
        "question_id": parameter("question_id", "path", "Which question.", QUESTION_ID),
        "status": parameter("status", "query", "None: open.", STATUS | {"default": "open"}),
        "assignee": parameter(
            "assignee", "query", "Those that this subject may answer; `me`: the caller."
        ),
        "page_token": parameter("page_token", "query", "The `next_page_token` of the page before."),
        "timeout": parameter("timeout", "query", "Seconds.", wait),
    }
