"""From the body of an answer to an attempt at answering. Pure.

Each step is a function of its own, since what is looked at when is part of the contract: whether
the caller may see and answer comes first, what is wrong with the answer itself last.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sse.answer import Attempt, moment
from sse.answer_schema import Checker
from sse.event import Refused
from sse.idempotency import read_key
from sse.question import ANONYMOUS, MAX_SHOWN_BYTES, Caller, Question, digest_of, seats_of
from sse.schema_shape import Fault, child

MAX_BODY_BYTES: Final = 1 << 20
MAX_COMMENT_CHARACTERS: Final = 8192
_MAX_FAULTS: Final = 20
_NAME_CHARACTERS: Final = 128
_MEMBERS: Final = ("response", "comment")
_ID: Final = "question_id"


def parse(body: bytes) -> object:
    """The JSON value; raises Refused (BAD_REQUEST)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = "it is empty" if not body else f"{error.msg}, line {error.lineno}"
        raise Refused("BAD_REQUEST", f"The answer is not JSON (RFC 8259): {text}.") from None


def question_id_of(value: object) -> str:
    """Which question is answered; raises Refused (UNPROCESSABLE)."""
    if not isinstance(value, dict):
        raise _refused([("", "An answer is an object with question_id and response.")])
    given = value.get(_ID)
    if not isinstance(given, str):
        raise _refused([(child("", _ID), "The id of the question, a text.")])
    return given


def idempotency_key(field: bytes | None) -> str | None:
    """The key of the header field's value; raises Refused (BAD_REQUEST)."""
    if field is None:
        return None
    try:
        return read_key(field)
    except Refused:
        text = (
            "The Idempotency-Key is not 1 to 255 visible ASCII characters; send a UUID, for"
            " instance, a new one for each answer."
        )
        raise Refused("BAD_REQUEST", text) from None


def attempt(
    value: object,
    question: Question,
    checker: Checker,
    caller: Caller,
    address: str,
    key: str | None,
    *,
    names_question: bool,
) -> Attempt:
    """The attempt, with what is wrong in it. `names_question`: the body holds the question's id.

    Callers without a credential are told apart by their address. Raises Refused (BAD_REQUEST) for
    what is nested too deep to be written again.
    """
    members = dict(value) if isinstance(value, dict) else {}
    if names_question:
        members.pop(_ID, None)
    try:
        digest = digest_of(members if isinstance(value, dict) else value)
        response = orjson.dumps(members.get("response"))
    except TypeError:
        raise Refused("BAD_REQUEST", "The answer is nested too deep.") from None
    comment = members.get("comment")
    return Attempt(
        question=question,
        voter=voter_of(caller, address),
        who=caller.name,
        digest=digest,
        seats=seats_of(caller, question) if question.approvers else (),
        response=response,
        comment=comment if isinstance(comment, str) else None,
        key=key,
        problem=_problem(value, members, response, caller.name, checker),
    )


def voter_of(caller: Caller, address: str) -> str:
    """Who it is, exactly: no subject reads like an address."""
    if not caller.subject:
        return f"address {address}"
    return f"subject {caller.subject}"


def _problem(
    value: object, members: dict[str, Any], response: bytes, who: str, checker: Checker
) -> Refused | None:
    """Why it can't be taken."""
    faults: list[Fault] = []
    if not isinstance(value, dict):
        return _refused([("", 'An answer is an object: {"response": …}.')])
    for name in members:
        if name not in _MEMBERS and len(faults) < _MAX_FAULTS:
            shown = name if len(name) <= _NAME_CHARACTERS else f"{name[:32]}…"
            faults.append((child("", shown), "Is no member of an answer."))
    comment = members.get("comment")
    if comment is not None and (
        not isinstance(comment, str) or len(comment) > MAX_COMMENT_CHARACTERS
    ):
        text = f"A text of at most {MAX_COMMENT_CHARACTERS} characters."
        faults.append((child("", "comment"), text))
    if "response" not in members:
        faults.append((child("", "response"), "Is missing."))
    elif len(response) + len(who) * 6 + len(_AROUND) > MAX_SHOWN_BYTES:
        text = f"A response takes at most {MAX_SHOWN_BYTES - 2048} bytes; this has {len(response)}."
        return Refused("PAYLOAD_TOO_LARGE", text, ((child("", "response"), text),))
    else:
        found = checker.faults(members["response"])
        faults += [(child("", "response") + at, text) for at, text in found]
    return _refused(faults[:_MAX_FAULTS]) if faults else None


# What stands around a response where it is told: the id, the status, the time.
_AROUND: Final = orjson.dumps(
    {
        _ID: "x" * 128,
        "status": "answered",
        "response": None,
        "answered_by": ANONYMOUS,
        "answered_at": moment(0),
    }
)


def _refused(faults: list[Fault]) -> Refused:
    at, text = faults[0]
    message = f"The answer was not taken. {f'{at}: ' if at else ''}{text}"
    return Refused("UNPROCESSABLE", message, tuple(faults))
