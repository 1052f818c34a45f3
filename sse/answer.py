"""What becomes of a question: its state, and what an answer, a withdrawal or time does to it. Pure.

Every way a question can end is a function from a state to the next one. A store applies them under
a lock on the question and writes the result by one compare-and-set, so that of all that race,
whichever gateway they come to, exactly one ends it.

How votes become one answer (policies `all` and `at_least`): it is the last vote's, but a refusal
among them wins (`is_refusal`), the last where there are several. "All must approve" would mean
nothing if the last to come could say yes for those who said no. All votes are listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from sse.event import Refused, timestamp
from sse.question import ALL, ANSWERED, AT_LEAST, EXPIRED, MISSING, OPEN, WITHDRAWN, Question

DEFAULT: Final = "default"
# What the gateway itself does is in its name.
GATEWAY: Final = "gateway"

_REFUSALS: Final = frozenset(
    ("reject", "rejected", "refuse", "refused", "deny", "denied", "decline", "declined", "no")
)
_DECIDING: Final = ("decision", "action", "answer")


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer where several are needed. `voter` is who it was, exactly; `who` for people. A seat
    is filled once: an entry of `approvers` under `all`, else the voter's own.
    """

    voter: str
    who: str
    seat: str
    at_ms: int
    response: bytes
    comment: str | None = None

    def shown(self) -> dict[str, object]:
        """As lists of votes have it."""
        members: dict[str, object] = {
            "who": self.who,
            "at": moment(self.at_ms),
            "response": orjson.Fragment(self.response),
        }
        return members if self.comment is None else members | {"comment": self.comment}


@dataclass(frozen=True, slots=True)
class State:
    """Where a question stands. `answer` is the JSON object of the decision: `response`,
    `answered_by`, `answered_at`, and `comment` if there is one. `ended_by` is who withdrew it, or
    `default` where the default answered.
    """

    status: str = OPEN
    voted: int = 0
    answer: bytes | None = None
    ended_ms: int | None = None
    ended_by: str | None = None
    votes: tuple[Vote, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it waits for answers."""
        return self.status == OPEN

    def told(self) -> dict[str, Any]:
        """`answered_by`, `answered_at` and `response`; null where nobody answered."""
        members = {} if self.answer is None else orjson.loads(self.answer)
        return {name: members.get(name) for name in ("response", "answered_by", "answered_at")}


@dataclass(frozen=True, slots=True)
class StoredReply:
    """The answer to an Idempotency-Key's first use, and the digest of what came with it."""

    digest: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer that may be given as far as its caller goes.

    `voter` is who it is, exactly (votes and keys are his), `who` for people, `seats` what he can
    fill. `problem`: why what he says can't be taken; it counts only while the question is open.
    """

    question: Question
    voter: str
    who: str
    digest: bytes
    seats: tuple[str, ...] = ()
    response: bytes = b"null"
    comment: str | None = None
    key: str | None = None
    problem: Refused | None = None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The wish to have a question withdrawn, by someone who may."""

    question: Question
    who: str


@dataclass(frozen=True, slots=True)
class Expiry:
    """A question whose time may have come."""

    question: Question


Deed = Attempt | Withdrawal | Expiry


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a deed came to: the state after it, and its answer or why it was refused.

    `vote` is a new one, to be kept. `replayed`: the answer is that of an earlier try.
    """

    state: State
    body: bytes = b""
    refused: Refused | None = None
    vote: Vote | None = None
    replayed: bool = False
    keep_key: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """A question that has ended, and how."""

    question: Question
    state: State

    def resolved(self) -> bytes:
        """The data of the event `question.resolved`, which is also the answer to the winner."""
        return resolved(self.question, self.state)


def decide(deed: Deed, state: State, known: StoredReply | None, now_ms: int) -> Outcome:
    """What a deed does to a question in this state, at this time (Unix milliseconds)."""
    if isinstance(deed, Attempt) and known is not None:
        return _replay(deed, state, known)
    if state.is_open and deed.question.expires_ms <= now_ms:
        state = expire(deed.question, state, now_ms)
    if isinstance(deed, Expiry):
        return Outcome(state)
    if isinstance(deed, Withdrawal):
        return _withdraw(deed, state, now_ms)
    return _answer(deed, state, now_ms)


def expire(question: Question, state: State, now_ms: int) -> State:
    """What time makes of an open question."""
    if question.default is MISSING:
        return replace(state, status=EXPIRED, ended_ms=now_ms)
    answer = _decision(orjson.dumps(question.default), DEFAULT, now_ms, None)
    return replace(state, status=ANSWERED, answer=answer, ended_ms=now_ms, ended_by=DEFAULT)


def _replay(attempt: Attempt, state: State, known: StoredReply) -> Outcome:
    if known.digest != attempt.digest:
        text = "This Idempotency-Key was used with another answer; another answer needs a new key."
        return Outcome(state, refused=Refused("UNPROCESSABLE", text))
    return Outcome(state, known.body, replayed=True)


def _withdraw(deed: Withdrawal, state: State, now_ms: int) -> Outcome:
    if state.is_open:
        return Outcome(replace(state, status=WITHDRAWN, ended_ms=now_ms, ended_by=deed.who))
    return Outcome(state, refused=None if state.status == WITHDRAWN else over(state))


def _answer(attempt: Attempt, state: State, now_ms: int) -> Outcome:
    question = attempt.question
    refused = attempt.problem if state.is_open else over(state)
    if refused is not None:
        return Outcome(state, refused=refused)
    if question.policy not in (ALL, AT_LEAST):
        answer = _decision(attempt.response, attempt.who, now_ms, attempt.comment)
        state = replace(state, status=ANSWERED, answer=answer, ended_ms=now_ms)
        return Outcome(state, resolved(question, state), keep_key=True)
    seat = _free_seat(attempt, state)
    if isinstance(seat, Refused):
        return Outcome(state, refused=seat)
    vote = Vote(attempt.voter, attempt.who, seat, now_ms, attempt.response, attempt.comment)
    votes = (*state.votes, vote)
    if len(votes) < question.needed:
        state = replace(state, votes=votes, voted=len(votes))
        body = orjson.dumps(
            {
                "question_id": question.question_id,
                "status": OPEN,
                "votes": len(votes),
                "needed": question.needed,
            }
        )
        return Outcome(state, body, vote=vote, keep_key=True)
    decisive = _decisive(votes)
    answer = _decision(decisive.response, decisive.who, now_ms, decisive.comment)
    state = State(ANSWERED, len(votes), answer, now_ms, votes=votes)
    return Outcome(state, resolved(question, state), vote=vote, keep_key=True)


def _free_seat(attempt: Attempt, state: State) -> str | Refused:
    """The seat that a vote fills, or why there is none."""
    for vote in state.votes:
        if vote.voter == attempt.voter:
            text = "You have answered already; it waits for others."
            return Refused("CONFLICT", text, extra=_whose(vote))
    if attempt.question.policy == AT_LEAST:
        return attempt.voter
    taken = {vote.seat: vote for vote in state.votes}
    for seat in attempt.seats:
        if seat not in taken:
            return seat
    if not attempt.seats:
        return Refused("FORBIDDEN", "This question is answered by its approvers only.")
    first = taken[attempt.seats[0]]
    text = f"{first.who} has answered for all that you can answer for; it waits for others."
    return Refused("CONFLICT", text, extra=_whose(first))


def _whose(vote: Vote) -> dict[str, object]:
    shown = vote.shown()
    return {
        "answered_by": vote.who,
        "answered_at": shown["at"],
        "response": orjson.loads(vote.response),
    }


def _decisive(votes: tuple[Vote, ...]) -> Vote:
    """The vote whose answer is the question's."""
    refusals = [vote for vote in votes if is_refusal(orjson.loads(vote.response))]
    return (refusals or votes)[-1]


def is_refusal(response: object) -> bool:
    """Whether an answer says no: false, an object whose `approved` is false or whose `decision`,
    `action` or `answer` is a word of refusal, or such a word itself (reject, refuse, deny, decline
    and their participles, no; in any case).
    """
    if isinstance(response, dict):
        if response.get("approved") is False:
            return True
        return any(_is_no(response.get(name)) for name in _DECIDING)
    return response is False or _is_no(response)


def _is_no(value: object) -> bool:
    return isinstance(value, str) and value.strip().casefold() in _REFUSALS


def over(state: State) -> Refused:
    """Why a question that has ended takes no answer."""
    if state.status == ANSWERED:
        told = state.told()
        text = f"This question was answered by {told['answered_by']} at {told['answered_at']}."
        return Refused("CONFLICT", text, extra=told)
    return Refused("GONE", f"This question is {state.status}; it takes no answers any more.")


def unknown() -> Refused:
    """The same for a question that does not exist and for one that the caller may not see."""
    return Refused("NOT_FOUND", "There is no such question, or it is not yours to see.")


# Words


def moment(at_ms: int) -> str:
    """RFC 3339 of Unix milliseconds."""
    return timestamp(at_ms / 1000)


def resolved(question: Question, state: State) -> bytes:
    """How a question ended, for everyone who was shown it."""
    return orjson.dumps(
        {"question_id": question.question_id, "status": state.status} | state.told()
    )


def delivered(ending: Ending) -> bytes:
    """What the asker or a service is sent when a question has ended."""
    question, state = ending.question, ending.state
    data: dict[str, object] = orjson.loads(ending.resolved())
    comment = {} if state.answer is None else orjson.loads(state.answer)
    if "comment" in comment:
        data["comment"] = comment["comment"]
    data["client_ids"] = question.client_ids
    data |= question.context
    if state.votes:
        data["votes"] = [vote.shown() for vote in state.votes]
    at = moment(state.ended_ms or 0)
    return orjson.dumps({"type": "question.resolved", "timestamp": at, "data": data})


def _decision(response: bytes, who: str, at_ms: int, comment: str | None) -> bytes:
    members: dict[str, object] = {
        "response": orjson.Fragment(response),
        "answered_by": who,
        "answered_at": moment(at_ms),
    }
    return orjson.dumps(members if comment is None else members | {"comment": comment})


@dataclass(frozen=True, slots=True)
class Audited:
    """An entry of the audit trail."""

    at_ms: int
    what: str
    who: str
    detail: str | None = None

    def shown(self) -> dict[str, object]:
        """As it is listed."""
        return {
            "at": moment(self.at_ms),
            "what": self.what,
            "who": self.who,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Details:
    """A question with all that is known of it. `noted` is what the question and its state do not
    tell themselves: deliveries, looks, refused tries, reminders, calls.
    """

    question: Question
    state: State
    noted: tuple[Audited, ...] = field(default=())

    def shown(self) -> bytes:
        """The object with `answer`, `votes` and `audit`."""
        state = self.state
        answer = None if state.answer is None else orjson.Fragment(state.answer)
        votes = [vote.shown() for vote in self._votes()]
        trail = [each.shown() for each in self.trail()]
        return self.question.shown(state.status, answer=answer, votes=votes, audit=trail)

    def _votes(self) -> tuple[Vote, ...]:
        """Also where one decides: there it is the answer's, unless that is the default."""
        state = self.state
        if state.votes or state.answer is None or state.ended_by == DEFAULT:
            return state.votes
        answer = orjson.loads(state.answer)
        who, response = answer["answered_by"], orjson.dumps(answer["response"])
        return (Vote(who, who, who, state.ended_ms or 0, response, answer.get("comment")),)

    def trail(self) -> list[Audited]:
        """The story in its order; entries of one moment in the order of a question's life."""
        question, state = self.question, self.state
        trail = [Audited(question.asked_ms, "asked", question.asker)]
        trail += self.noted
        trail += [Audited(vote.at_ms, "answered", vote.who) for vote in self._votes()]
        if state.status == WITHDRAWN:
            trail.append(Audited(state.ended_ms or 0, "withdrawn", state.ended_by or GATEWAY))
        elif state.status == EXPIRED:
            trail.append(Audited(state.ended_ms or 0, "expired", GATEWAY))
        elif state.ended_by == DEFAULT:
            trail.append(Audited(state.ended_ms or 0, "expired", GATEWAY))
            trail.append(Audited(state.ended_ms or 0, "answered", DEFAULT))
        return sorted(trail, key=lambda each: each.at_ms)


def summary(question: Question, state: State) -> bytes:
    """The object with its answer, as lists and waits have it."""
    answer = None if state.answer is None else orjson.Fragment(state.answer)
    return question.shown(state.status, answer=answer)
