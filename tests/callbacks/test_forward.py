"""Forwarding: which answers are decisions, and the request that a service gets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callbacks.forward import ForwardRequests, decision
from gateway.callbacks.roles import Hopeless
from gateway.settings import EndpointUrl, ForwardSettings
from sse.answer import is_refusal
from tests.callbacks.rows import ID, delivery

HITL = ForwardSettings("hitl", "PUT", "/api/v1/hitl/approvals/{question_id}/{decision}")
ONE = EndpointUrl("http", "10.0.0.1", 8083)
TWO = EndpointUrl("https", "hitl.internal", 443, "/base")


def forward(settings: ForwardSettings = HITL, *endpoints: EndpointUrl) -> ForwardRequests:
    return ForwardRequests(settings, endpoints or (ONE,), lambda wall: f"request-{wall:.0f}")


APPROVING: list[object] = [
    *(True, "approve", "Approved", " YES ", "y", "true", "accept", "allow", "ok"),
    *({"approved": True}, {"approved": "yes"}, {"decision": "approve"}, {"approve": True}),
    {"approved": True, "reason": "no objections"},
    {"approved": True, "rejected": False},
    *({"answer": "yes"}, {"action": "accept"}, {"choice": "approve"}, {"response": True}),
]
REJECTING: list[object] = [
    *(False, "reject", "Rejected", " NO ", "n", "deny", "declined", "refuse", "false"),
    *({"approved": False}, {"decision": "reject"}, {"rejected": True}, {"reject": True}),
    *({"approved": "no"}, {"approve": False}, {"choice": "no"}),
    {"approved": True, "decision": "reject"},
    {"approved": True, "rejected": True},
]
NEITHER: list[object] = [
    *(None, 1, 0, 1.0, "", "yes please", "no problem, go on", "approve not", [], [True], {}),
    *({"comment": "yes"}, {"rejected": False}, {"approved": None}, {"approved": 1}),
    {"answer": {"approved": True}},
]


@pytest.mark.parametrize("response", APPROVING, ids=repr)
def test_an_answer_that_approves(response: object) -> None:
    assert decision(response) is True


@pytest.mark.parametrize("response", REJECTING, ids=repr)
def test_an_answer_that_rejects_and_one_refusal_wins(response: object) -> None:
    assert decision(response) is False


@pytest.mark.parametrize("response", NEITHER, ids=repr)
def test_an_answer_that_says_neither_is_no_decision(response: object) -> None:
    assert decision(response) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.sampled_from(["no", "Yes", "deny", "refused", "x"]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["approved", "decision", "action", "answer", "x"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=5,
    )
)
def test_what_is_a_refusal_among_votes_is_never_forwarded_as_anything_else(
    response: object,
) -> None:
    if is_refusal(response):
        assert decision(response) is False


@pytest.mark.parametrize(("response", "word"), [(True, "approve"), ("no", "reject")])
def test_the_service_gets_the_decision_in_the_path_and_the_answer_in_the_body(
    response: object, word: str
) -> None:
    made = forward().request(delivery("forward", response=response), 7)
    assert made.method == "PUT"
    assert str(made.url) == f"http://10.0.0.1:8083/api/v1/hitl/approvals/q-1/{word}"
    assert json.loads(made.body) == {
        "question_id": "q-1",
        "response": response,
        "answered_by": "ada",
        "answered_at": "2026-11-21T14:00:00.000Z",
        "comment": "looks right",
    }
    assert made.headers == {
        "Content-Type": "application/json",
        "Idempotency-Key": ID,
        "X-Request-ID": "request-7",
    }
    assert made.allowed is None


def test_each_attempt_goes_to_the_next_endpoint_and_a_base_path_stays() -> None:
    maker = forward(HITL, ONE, TWO)
    urls = [str(maker.request(delivery("forward", attempts=n), 7).url) for n in range(3)]
    path = "/api/v1/hitl/approvals/q-1/approve"
    assert urls == [
        f"http://10.0.0.1:8083{path}",
        f"https://hitl.internal/base{path}",
        f"http://10.0.0.1:8083{path}",
    ]


def test_the_words_of_a_decision_may_be_others_and_count_in_answers_too() -> None:
    settings = ForwardSettings("s", "POST", "/x/{decision}", approve="Grant it", reject="a/b?")
    made = forward(settings).request(delivery("forward", response="grant IT"), 7)
    assert made.url.raw_path == "/x/Grant%20it"
    made = forward(settings).request(delivery("forward", response={"decision": "A/B?"}), 7)
    assert made.url.raw_path_qs == "/x/a%2Fb%3F"


def test_free_text_is_not_forwarded_where_the_path_asks_for_a_decision() -> None:
    with pytest.raises(Hopeless, match="neither approves nor rejects"):
        forward().request(delivery("forward", response="only on Tuesdays"), 7)


def test_free_text_is_forwarded_with_the_word_for_it() -> None:
    settings = ForwardSettings("s", "POST", "/x/{decision}", other="respond")
    made = forward(settings).request(delivery("forward", response="only on Tuesdays"), 7)
    assert made.url.raw_path == "/x/respond"


def test_any_answer_is_forwarded_to_a_path_without_a_decision() -> None:
    settings = ForwardSettings("s", "POST", "/answers/{question_id}")
    made = forward(settings).request(delivery("forward", response="only on Tuesdays"), 7)
    assert made.url.raw_path == "/answers/q-1"


@pytest.mark.parametrize("status", ["expired", "withdrawn", "open"])
def test_an_end_without_an_answer_is_not_forwarded(status: str) -> None:
    with pytest.raises(Hopeless, match="only answers"):
        forward().request(delivery("forward", status=status), 7)


def test_a_default_answer_is_forwarded() -> None:
    made = forward().request(delivery("forward", answered_by="default"), 7)
    assert json.loads(made.body)["answered_by"] == "default"


def test_an_id_stays_one_segment_of_the_path() -> None:
    made = forward().request(delivery("forward", question_id="a:b@c~d{decision}"), 7)
    assert made.url.raw_path == "/api/v1/hitl/approvals/a%3Ab%40c~d%7Bdecision%7D/approve"
    for bad in (".", ".."):
        with pytest.raises(Hopeless, match="another path"):
            forward().request(delivery("forward", question_id=bad), 7)


def test_an_answer_without_a_comment_has_none() -> None:
    row = delivery("forward")
    row = replace(row, payload=row.payload.replace(b'"comment":"looks right",', b""))
    assert json.loads(forward().request(row, 7).body)["comment"] is None


def test_deliveries_are_counted_by_service() -> None:
    assert forward().destination(delivery("forward")) == "service hitl"


def test_it_shows_where_it_forwards_to() -> None:
    assert repr(forward()) == f"<ForwardRequests PUT hitl {HITL.path}>"
