"""Forwarding of an answer to a service, as `[questions.forward]` says.

The service is the operator's own: its address may be private, its certificate is checked like any
service's. Only answers are forwarded (a default is one): a question that expired or was withdrawn
holds no decision that a service could act on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

import orjson
from yarl import URL

from gateway.callbacks.roles import Hopeless
from gateway.callbacks.sending import Outgoing
from gateway.settings import EndpointUrl, ForwardSettings
from gateway.store.deliveries import Delivery
from sse.answer import is_refusal

_APPROVING: Final = frozenset(
    ("approve", "approved", "yes", "y", "true", "accept", "accepted", "allow", "allowed", "ok")
)
# What `is_refusal` knows are refusals here too; these are further ones.
_REJECTING: Final = frozenset(("n", "false", "disallow", "disallowed"))
# Members of an answer that decide, as forms name them; `rejected: false` says nothing yet.
_MEMBERS: Final = ("approved", "approve", "decision", "answer", "response", "action", "choice")
_NEGATIVE_MEMBERS: Final = ("rejected", "reject")
_BODY: Final = ("question_id", "response", "answered_by", "answered_at", "comment")


def decision(response: object, words: Mapping[str, bool] | None = None) -> bool | None:
    """Whether an answer approves (True) or rejects (False); None when it says neither.

    true and false, the usual words in any case, and objects that hold one of these under a usual
    name. Free text is no decision: what a person wrote is never guessed at. One refusal in an
    object wins, as it does among votes. `words` are further ones, case-folded.
    """
    if not isinstance(response, dict):
        return _said(response, words or {})
    said = {_said(response[name], words or {}) for name in _MEMBERS if name in response}
    negative = any(response.get(name) is True for name in _NEGATIVE_MEMBERS)
    if is_refusal(response) or negative or False in said:
        return False
    return True if True in said else None


def _said(value: object, words: Mapping[str, bool]) -> bool | None:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    word = value.strip().casefold()
    if word in words:
        return words[word]
    if word in _REJECTING or is_refusal(word):
        return False
    return True if word in _APPROVING else None


class ForwardRequests:
    """Makes the request of a delivery; each attempt goes to the service's next endpoint."""

    def __init__(
        self,
        settings: ForwardSettings,
        endpoints: Sequence[EndpointUrl],
        new_request_id: Callable[[float], str],
    ) -> None:
        self._settings = settings
        self._endpoints = tuple(endpoints)
        self._new_request_id = new_request_id
        self._words = {settings.approve.casefold(): True, settings.reject.casefold(): False}

    def __repr__(self) -> str:
        settings = self._settings
        return f"<ForwardRequests {settings.method} {settings.service} {settings.path}>"

    def destination(self, delivery: Delivery) -> str:
        """The service's name."""
        return f"service {self._settings.service}"

    def request(self, delivery: Delivery, wall_seconds: float) -> Outgoing:
        """The request of one attempt. Raises Hopeless for what is not forwarded."""
        question = orjson.loads(delivery.payload)["data"]
        if question["status"] != "answered":
            raise Hopeless("only answers are forwarded")
        endpoint = self._endpoints[delivery.attempts % len(self._endpoints)]
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": delivery.id,
            "X-Request-ID": self._new_request_id(wall_seconds),
        }
        body = orjson.dumps({name: question.get(name) for name in _BODY})
        url = URL(f"{endpoint}{self._path(question)}", encoded=True)
        return Outgoing(self._settings.method, url, headers, body, None)

    def _path(self, question: Mapping[str, object]) -> str:
        path = self._settings.path
        if self._settings.decides:
            path = path.replace("{decision}", quote(self._word(question.get("response")), safe=""))
        path = path.replace("{question_id}", quote(str(question["question_id"]), safe=""))
        if any(segment in (".", "..") for segment in path.split("/")):
            raise Hopeless("the question's id would lead to another path")
        return path

    def _word(self, response: object) -> str:
        approves = decision(response, self._words)
        if approves is not None:
            return self._settings.approve if approves else self._settings.reject
        if self._settings.other is None:
            raise Hopeless("the answer neither approves nor rejects")
        return self._settings.other
