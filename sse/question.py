"""A question: what it is, who may see it and who may answer it, how it is told. Pure.

A question never changes; what becomes of it (open, answered, expired, withdrawn) is the state in
`answer.py`. How an asker's words become one is in `question_body.py`. Not here: keeping it
(`questions.py` over a store) and showing it to anyone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson

from sse.event import MAX_DATA_BYTES

OPEN: Final = "open"
ANSWERED: Final = "answered"
EXPIRED: Final = "expired"
WITHDRAWN: Final = "withdrawn"
STATUSES: Final = (OPEN, ANSWERED, EXPIRED, WITHDRAWN)

FIRST: Final = "first"
ALL: Final = "all"
AT_LEAST: Final = "at_least"

ANONYMOUS: Final = "anonymous"
# A question is shown as an event, and so is what became of it. The envelope takes some 150 bytes of
# a data line, what a reminder adds 40.
MAX_SHOWN_BYTES: Final = MAX_DATA_BYTES - 512

ANSWERER_SCOPE: Final = "questions:answer"
ADMIN_SCOPE: Final = "admin"
READER_SCOPE: Final = "events:read"
# The gateway's own workers ask for jobs; what they asked is theirs to see and to withdraw.
INTERNAL_SCOPE: Final = "internal"


class Caller(Protocol):
    """Who is calling. `subject` is None without a credential; then `open_read` and `open_write` say
    what is open all the same.
    """

    @property
    def subject(self) -> str | None:
        """Whom the credential names."""

    @property
    def scopes(self) -> frozenset[str]:
        """What it is good for."""

    @property
    def client_ids(self) -> frozenset[str]:
        """What its owner reads besides the client id equal to `subject`."""

    @property
    def open_read(self) -> bool:
        """Whether reading needs no credential."""

    @property
    def open_write(self) -> bool:
        """Whether writing needs no credential."""

    @property
    def name(self) -> str:
        """The subject, or `anonymous`."""

    def may_read(self, client_id: str) -> bool:
        """Whether the events of this client id are the caller's to read."""

    def may(self, *scopes: str) -> bool:
        """Whether the caller has one of these scopes, or what they stand for is open."""


class Missing:
    """A member that was not given; null is a value like any other."""

    def __repr__(self) -> str:
        return "missing"


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it was asked.

    Times are Unix microseconds (`ordinal`, which no two questions of a gateway share, so that lists
    have an order) or milliseconds. `asked_by` is None for a caller without a credential.
    `document` is the object that everyone is shown, without its status. `needed` is how many votes
    decide. `default` is what answers when nobody did. `job` is the operation id of the job that
    waits for the decision.
    """

    question_id: str
    client_ids: tuple[str, ...]
    asked_by: str | None
    ordinal: int
    expires_ms: int
    document: bytes = field(repr=False)
    approvers: tuple[str, ...] = ()
    policy: str = FIRST
    needed: int = 1
    forbid_self: bool = False
    default: object = MISSING
    schema: object = MISSING
    options: tuple[str, ...] = ()
    reminders: tuple[float, ...] = ()
    callback_url: str | None = None
    job: str | None = None
    context: Mapping[str, object] = field(default_factory=dict)

    @property
    def asked_ms(self) -> int:
        """When it was asked, Unix milliseconds."""
        return self.ordinal // 1000

    @property
    def asker(self) -> str:
        """For people: who asked."""
        return self.asked_by or ANONYMOUS

    def shown(self, status: str, **members: object) -> bytes:
        """The object with its status, and further members behind it."""
        if not members:
            return b'%b,"status":"%b"}' % (self.document[:-1], status.encode())
        more = orjson.dumps({"status": status} | members)
        return b"%b,%b" % (self.document[:-1], more[1:])

    def next_reminder_ms(self, after_ms: int) -> int | None:
        """When the first reminder after a time is due, Unix milliseconds."""
        due = [self.expires_ms - round(seconds * 1000) for seconds in self.reminders]
        return min((at for at in due if at > after_ms), default=None)


def from_document(document: bytes, asked_by: str | None, ordinal: int) -> Question:
    """The question that was kept as these; raises ValueError when it is none."""
    members: dict[str, Any] = orjson.loads(document)
    try:
        approvers = tuple(members.get("approvers") or ())
        policy, needed = policy_of(members.get("policy", FIRST), approvers)
        return Question(
            question_id=members["question_id"],
            client_ids=tuple(members["client_ids"]),
            asked_by=asked_by,
            ordinal=ordinal,
            expires_ms=milliseconds(members["expires_at"]),
            document=document,
            approvers=approvers,
            policy=policy,
            needed=needed,
            forbid_self=bool(members.get("forbid_self")),
            default=members.get("default", MISSING),
            schema=members.get("schema", MISSING),
            options=tuple(members.get("options") or ()),
            reminders=tuple(members.get("reminders") or ()),
            callback_url=members.get("callback_url"),
            job=members.get("job"),
            context=context_of(members),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a question: {error!r}") from None


def context_of(members: Mapping[str, object]) -> dict[str, object]:
    """What the asker gave so that he knows what an answer belongs to."""
    return {name: members[name] for name in ("run_id", "node_id", "metadata") if name in members}


def policy_of(policy: object, approvers: tuple[str, ...]) -> tuple[str, int]:
    """The name of a valid policy, and how many votes decide.

    `all`: each entry of `approvers` has a seat of its own. A subject fills his; a scope's is filled
    by one of those who hold it.
    """
    if isinstance(policy, dict):
        return AT_LEAST, policy[AT_LEAST]
    return (ALL, len(approvers)) if policy == ALL else (FIRST, 1)


def milliseconds(text: str) -> int:
    """Unix milliseconds of an RFC 3339 time; raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return round(since.total_seconds() * 1000)


def digest_of(value: object) -> bytes:
    """What is kept of JSON to tell whether a repeat is the same; TypeError: nested too deep."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


# Who may


def may_see(caller: Caller, question: Question) -> bool:
    """Whether a caller may know of a question: to all others it does not exist."""
    return (
        any(caller.may_read(client_id) for client_id in question.client_ids)
        or is_approver(caller, question)
        or is_asker(caller, question)
        or caller.may(ANSWERER_SCOPE, ADMIN_SCOPE)
        or is_worker(caller, question)
    )


def why_not_answer(caller: Caller, question: Question) -> str | None:
    """Why a caller who may see a question may not answer it; None when he may.

    Approvers are those named, whatever else is open: without a credential nobody is one.
    """
    if question.forbid_self and question.asked_by == (caller.subject or None):
        return "Its asker may not answer this question; another has to."
    if question.approvers:
        if not is_approver(caller, question):
            return "This question is answered by its approvers only."
    elif not caller.may(ANSWERER_SCOPE) and not any(map(caller.may_read, question.client_ids)):
        return "This question is answered by those it is shown to, or with questions:answer."
    return None


def may_withdraw(caller: Caller, question: Question) -> bool:
    """Whether a caller may withdraw a question: its asker, its job or an administrator."""
    return is_asker(caller, question) or caller.may(ADMIN_SCOPE) or is_worker(caller, question)


def is_asker(caller: Caller, question: Question) -> bool:
    """Whether the caller asked it; nobody without a credential did."""
    return caller.subject is not None and caller.subject == question.asked_by


def is_worker(caller: Caller, question: Question) -> bool:
    """Whether the caller is one of the gateway's own workers and the question a job's."""
    return question.job is not None and caller.may(INTERNAL_SCOPE)


def is_approver(caller: Caller, question: Question) -> bool:
    """Whether an entry of `approvers` is the caller's subject or one of his scopes."""
    approvers = question.approvers
    return caller.subject in approvers or not caller.scopes.isdisjoint(approvers)


def seats_of(caller: Caller, question: Question) -> tuple[str, ...]:
    """The entries of `approvers` that a caller can fill, his own name first."""
    mine = [each for each in question.approvers if each == caller.subject]
    held = (each for each in question.approvers if each in caller.scopes)
    return (*mine, *(each for each in held if each not in mine))
