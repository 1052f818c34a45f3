"""From an asker's words to a question, or to everything that is wrong with them. Pure.

The same for `POST …/questions` and for a published event `question`. Who may ask is not looked at
here. Optional members that are null count as not given, but for `default`: null is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from sse.answer_schema import MAX_FAULTS, AnswerSchemas, Anything, BadSchema, Checker, Options
from sse.event import JOB_PREFIX, Refused, is_client_id, is_job_stream, timestamp
from sse.question import (
    ALL,
    AT_LEAST,
    FIRST,
    MAX_SHOWN_BYTES,
    MISSING,
    Question,
    context_of,
    digest_of,
    milliseconds,
    policy_of,
)
from sse.schema_shape import Fault, child

MAX_CLIENT_IDS: Final = 64
MAX_PROMPT_CHARACTERS: Final = 8192
MAX_METADATA_BYTES: Final = 16384
# A form with more choices is a search; the names of people in one company's team fit.
MAX_OPTIONS: Final = 64
MAX_APPROVERS: Final = 64
MAX_NAME_CHARACTERS: Final = 256
MAX_REMINDERS: Final = 16
MAX_URL_CHARACTERS: Final = 2048
LEAST_SECONDS: Final = 1.0
MOST_SECONDS: Final = 90 * 86400.0
DEFAULT_SECONDS: Final = 7 * 86400.0

# `,"status":"withdrawn"`
_STATUS_BYTES: Final = 21
_NAME_FORM: Final = "1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -"
_is_moment: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
).fullmatch  # RFC 3339 §5.6


@dataclass(frozen=True, slots=True)
class NewQuestion:
    """A question that was accepted. `named`: the asker gave the id, so it may exist; then `digest`
    is of what he sent, by which the same again is known.
    """

    question: Question
    digest: bytes
    named: bool


class _Reading:
    """What was given, and what is wrong with it."""

    __slots__ = ("faults", "given")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.given = {
            name: value for name, value in body.items() if value is not None or name == "default"
        }
        self.faults: list[Fault] = []

    def wrong(self, message: str, *path: str | int) -> None:
        self.faults.append((child("", *path), message))


class QuestionReader:
    """Reads questions. `callbacks`: whether this gateway can sign a callback; `callback_fault`:
    what is wrong with an address to call, beyond how it is written, or None.
    """

    def __init__(
        self, schemas: AnswerSchemas, new_id: Callable[[], str], *, callbacks: bool
    ) -> None:
        self._schemas = schemas
        self._new_id = new_id
        self.callbacks = callbacks
        self.callback_fault: Callable[[str], str | None] = lambda url: None

    def _look_at_callback(self, reading: _Reading, url: str) -> None:
        if not self.callbacks:
            text = (
                "This gateway makes no callbacks: it has no secret to sign with (WEBHOOK_SECRET)."
            )
            reading.wrong(text, "callback_url")
        elif not reading.faults and (fault := self.callback_fault(url)) is not None:
            reading.wrong(f"Can't be called: it {fault}.", "callback_url")

    def read(
        self,
        body: object,
        asked_by: str | None,
        ordinal: int,
        client_id: str | None = None,
        *,
        internal: bool = False,
    ) -> NewQuestion:
        """The question. `ordinal` is now, Unix microseconds; `client_id`: published to it.

        `internal`: it may be a job's (`job`); then the body says who asked, and nobody where it
        does not: the worker that hands it in asks in somebody else's name.

        Raises Refused: UNPROCESSABLE with a pointer to each fault, BAD_REQUEST for what is nested
        too deep, PAYLOAD_TOO_LARGE for what is no event any more.
        """
        if not isinstance(body, dict):
            raise refusal([("", "A question is an object with client_ids and a prompt.")])
        try:
            orjson.dumps(body)
        except TypeError:
            raise Refused("BAD_REQUEST", "The question is nested too deep.") from None
        reading = _Reading(body)
        given = reading.given
        _look_at_names(reading, internal=internal)
        now_ms = ordinal // 1000
        members: dict[str, Any] = {
            "question_id": _question_id(reading) or self._new_id(),
            "client_ids": _client_ids(reading, client_id),
        }
        for name in given:
            read = _PLAIN.get(name)
            if read is not None:
                members[name] = read(reading, name)
        if internal and "job" in given:
            members["job"] = _job(reading)
            asked_by = _name(reading, "asked_by") if "asked_by" in given else None
        elif internal and "asked_by" in given:
            reading.wrong("Stands without a job: it is for questions of jobs only.", "asked_by")
        _look_at_jobs(reading, members)
        self._look_at_answers(reading, members)
        expires_ms = _expiry(reading, now_ms)
        _look_at_whole(reading, members, asked_by, (expires_ms - now_ms) / 1000)
        if "callback_url" in members:
            self._look_at_callback(reading, members["callback_url"])
        if reading.faults:
            raise refusal(reading.faults[:MAX_FAULTS])
        question = _question(members, asked_by, ordinal, expires_ms)
        named = "question_id" in given
        if len(question.document) + _STATUS_BYTES > MAX_SHOWN_BYTES:
            text = f"The whole question takes more than {MAX_SHOWN_BYTES} bytes, an event's room."
            raise Refused("PAYLOAD_TOO_LARGE", text)
        return NewQuestion(question, digest_of(body) if named else b"", named)

    def _look_at_answers(self, reading: _Reading, members: dict[str, Any]) -> None:
        """Schema or options, and the default."""
        checker: Checker = Anything()
        schema, options = reading.given.get("schema"), members.get("options")
        if schema is not None and options is not None:
            reading.wrong("Stands beside a schema: one of both says what an answer is.", "options")
        if schema is not None:
            members["schema"] = schema
            try:
                checker = self._schemas.read(schema)
            except BadSchema as bad:
                reading.faults += [(f"/schema{at}", text) for at, text in bad.faults]
                return
        elif options is not None:
            checker = Options(options)
        if "default" in reading.given:
            members["default"] = given = reading.given["default"]
            reading.faults += [(f"/default{at}", text) for at, text in checker.faults(given)]


def checker_of(schemas: AnswerSchemas, question: Question) -> Checker:
    """What answers to a question are held against."""
    if question.options:
        return Options(question.options)
    return Anything() if question.schema is MISSING else schemas.checker(question.schema)


def refusal(faults: Sequence[Fault]) -> Refused:
    """What an asker is told."""
    at, text = faults[0]
    message = f"Nothing was asked. {f'{at}: ' if at else ''}{text}"
    return Refused("UNPROCESSABLE", message, tuple(faults))


def _question(
    members: dict[str, Any], asked_by: str | None, ordinal: int, expires_ms: int
) -> Question:
    policy, needed = policy_of(members["policy"], tuple(members.get("approvers", ())))
    shown = members | {
        "expires_at": timestamp(expires_ms / 1000),
        "asked_at": timestamp(ordinal // 1000 / 1000),
        "asked_by": asked_by or "anonymous",
    }
    return Question(
        question_id=members["question_id"],
        client_ids=tuple(members["client_ids"]),
        asked_by=asked_by,
        ordinal=ordinal,
        expires_ms=expires_ms,
        document=orjson.dumps(shown),
        approvers=tuple(members.get("approvers", ())),
        policy=policy,
        needed=needed,
        forbid_self=members["forbid_self"],
        default=members.get("default", MISSING),
        schema=members.get("schema", MISSING),
        options=tuple(members.get("options", ())),
        reminders=tuple(members.get("reminders", ())),
        callback_url=members.get("callback_url"),
        job=members.get("job"),
        context=context_of(members),
    )


# Single members: each returns the value, and says what is wrong with it


def _question_id(reading: _Reading) -> str | None:
    given = reading.given.get("question_id")
    if given is not None and not (isinstance(given, str) and is_client_id(given)):
        reading.wrong(f"A question's id is {_NAME_FORM}.", "question_id")
    return given if isinstance(given, str) else None


def _client_ids(reading: _Reading, published_to: str | None) -> list[Any]:
    given = reading.given.get("client_ids")
    if given is None and published_to is not None:
        return [published_to]
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_CLIENT_IDS:
        reading.wrong(f"A list of 1 to {MAX_CLIENT_IDS} client ids.", "client_ids")
        return []
    for index, each in enumerate(given):
        if not isinstance(each, str) or not is_client_id(each):
            reading.wrong(f"A client id is {_NAME_FORM}.", "client_ids", index)
        elif each in given[:index]:
            reading.wrong("Stands there twice.", "client_ids", index)
    if published_to is not None and published_to not in given:
        reading.wrong(f"Lacks {published_to}, which it is published to.", "client_ids")
    return given


def _prompt(reading: _Reading, name: str) -> str:
    given = reading.given.get(name)
    if not isinstance(given, str) or not 1 <= len(given) <= MAX_PROMPT_CHARACTERS:
        reading.wrong(f"A text of 1 to {MAX_PROMPT_CHARACTERS} characters.", name)
    return str(given)


def _name(reading: _Reading, name: str) -> str:
    given = reading.given.get(name)
    if not _is_name(given):
        reading.wrong(f"A text of 1 to {MAX_NAME_CHARACTERS} printable characters.", name)
    return str(given)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME_CHARACTERS and value.isprintable()


def _job(reading: _Reading) -> str:
    given = reading.given.get("job")
    if not (isinstance(given, str) and is_client_id(given)):
        reading.wrong(f"A job's operation id is {_NAME_FORM}.", "job")
    return str(given)


def _flag(reading: _Reading, name: str) -> bool:
    given = reading.given.get(name)
    if not isinstance(given, bool):
        reading.wrong("true or false.", name)
    return given is True


def _names(most: int) -> Callable[[_Reading, str], list[str]]:
    """A list of different texts."""

    def read(reading: _Reading, name: str) -> list[str]:
        given = reading.given.get(name)
        if not isinstance(given, list) or not 1 <= len(given) <= most:
            reading.wrong(f"A list of 1 to {most} texts.", name)
            return []
        for index, each in enumerate(given):
            if not _is_name(each):
                text = f"A text of 1 to {MAX_NAME_CHARACTERS} printable characters."
                reading.wrong(text, name, index)
            elif each in given[:index]:
                reading.wrong("Stands there twice.", name, index)
        return [each for each in given if isinstance(each, str)]

    return read


def _metadata(reading: _Reading, name: str) -> dict[str, Any]:
    given = reading.given.get(name)
    if not isinstance(given, dict):
        reading.wrong("An object.", name)
        return {}
    if len(orjson.dumps(given)) > MAX_METADATA_BYTES:
        reading.wrong(f"At most {MAX_METADATA_BYTES} bytes as compact JSON.", name)
    return given


def _policy(reading: _Reading, name: str) -> Any:
    given = reading.given.get(name)
    if isinstance(given, dict) and set(given) == {AT_LEAST}:
        least = given[AT_LEAST]
        if type(least) is not int or not 1 <= least <= MAX_APPROVERS:
            reading.wrong(f"A whole number from 1 to {MAX_APPROVERS}.", name, AT_LEAST)
            return FIRST
    elif given not in (FIRST, ALL):
        reading.wrong('"first", "all" or {"at_least": n}.', name)
        return FIRST
    return given


def _reminders(reading: _Reading, name: str) -> list[float]:
    given = reading.given.get(name)
    if not isinstance(given, list) or len(given) > MAX_REMINDERS:
        reading.wrong(f"A list of at most {MAX_REMINDERS} numbers, seconds before expiry.", name)
        return []
    for index, each in enumerate(given):
        if not _is_number(each) or not 0 < each <= MOST_SECONDS:
            reading.wrong("A number of seconds before expiry, above 0.", name, index)
    return [each for each in given if _is_number(each)]


def _callback_url(reading: _Reading, name: str) -> str:
    given = reading.given.get(name)
    wrong = _wrong_with_url(given) if isinstance(given, str) else "Is not a text."
    if wrong:
        reading.wrong(wrong, name)
    return str(given)


def _wrong_with_url(url: str) -> str | None:
    if len(url) > MAX_URL_CHARACTERS:
        return f"Has more than {MAX_URL_CHARACTERS} characters."
    if not all("!" <= each <= "~" for each in url):
        return "Holds a character that an address may not: percent-encode it."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "Is no address."
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "Is no absolute http or https address."
    if parts.username is not None or parts.password is not None:
        return "Holds a user's name or a password; signatures say who calls."
    return "Has a fragment, which is never sent." if "#" in url else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expiry(reading: _Reading, now_ms: int) -> int:
    """When it expires, Unix milliseconds."""
    at, seconds = reading.given.get("expires_at"), reading.given.get("expires_in")
    if at is not None and seconds is not None:
        reading.wrong("Stands beside expires_in: give one of both.", "expires_at")
    if at is not None:
        return _expiry_at(reading, at, now_ms)
    if seconds is None:
        return now_ms + round(DEFAULT_SECONDS * 1000)
    if not _is_number(seconds) or not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        text = f"A number of seconds from {LEAST_SECONDS:.0f} to {MOST_SECONDS:.0f} (90 days)."
        reading.wrong(text, "expires_in")
        return now_ms
    return now_ms + round(float(seconds) * 1000)


def _expiry_at(reading: _Reading, given: object, now_ms: int) -> int:
    try:
        if not isinstance(given, str) or len(given) > 64 or _is_moment(given) is None:
            raise ValueError
        expires_ms = milliseconds(given.upper())
    except (ValueError, OverflowError):
        reading.wrong("A time as 2031-05-04T09:30:00Z (RFC 3339).", "expires_at")
        return now_ms
    if expires_ms <= now_ms:
        reading.wrong("Is past.", "expires_at")
    elif expires_ms - now_ms > MOST_SECONDS * 1000:
        reading.wrong("Is more than 90 days ahead.", "expires_at")
    return expires_ms


# What depends on several members


def _look_at_names(reading: _Reading, *, internal: bool) -> None:
    for name in reading.given:
        known = name in _READERS or (internal and name in _INTERNAL)
        if not known and len(reading.faults) < MAX_FAULTS:
            shown = name if len(name) <= MAX_NAME_CHARACTERS else f"{name[:32]}…"
            reading.wrong("Is no member of a question.", shown)


def _look_at_jobs(reading: _Reading, members: dict[str, Any]) -> None:
    own = f"{JOB_PREFIX}{members.get('job')}"
    for index, each in enumerate(members["client_ids"]):
        if isinstance(each, str) and is_job_stream(each) and each != own:
            text = "Is a job's stream, which shows that job's own questions only."
            reading.wrong(text, "client_ids", index)


def _look_at_whole(
    reading: _Reading, members: dict[str, Any], asked_by: str | None, lifetime_seconds: float
) -> None:
    """The prompt, reminders that come in time, and whether there can ever be enough votes."""
    if "prompt" not in members:
        reading.wrong(f"A text of 1 to {MAX_PROMPT_CHARACTERS} characters.", "prompt")
    for index, each in enumerate(members.get("reminders", ())):
        if each >= lifetime_seconds > 0:
            text = f"Lies before the question itself, which lives {lifetime_seconds:.0f} s."
            reading.wrong(text, "reminders", index)
    members.setdefault("policy", FIRST)
    members.setdefault("forbid_self", False)
    if members["policy"] != ALL:
        return
    approvers = members.get("approvers")
    if approvers is None:
        reading.wrong('"all" needs approvers: without them nobody knows who all are.', "policy")
    elif members["forbid_self"] and asked_by in approvers:
        text = "Is the asker, who may not answer: never can all."
        reading.wrong(text, "approvers", approvers.index(asked_by))


_PLAIN: Final[Mapping[str, Callable[[_Reading, str], Any]]] = {
    "prompt": _prompt,
    "options": _names(MAX_OPTIONS),
    "approvers": _names(MAX_APPROVERS),
    "policy": _policy,
    "forbid_self": _flag,
    "reminders": _reminders,
    "callback_url": _callback_url,
    "run_id": _name,
    "node_id": _name,
    "metadata": _metadata,
}
_READERS: Final = frozenset(
    (*_PLAIN, "question_id", "client_ids", "schema", "default", "expires_at", "expires_in")
)
# For the gateway's own workers only; to everyone else they are no members.
_INTERNAL: Final = frozenset(("job", "asked_by"))
