"""Rows of deliveries as decisions write them, for tests of callbacks."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.store.deliveries import Delivery

ANSWERED: Mapping[str, object] = {
    "question_id": "q-1",
    "status": "answered",
    "response": {"approved": True},
    "answered_by": "ada",
    "answered_at": "2026-11-21T14:00:00.000Z",
    "comment": "looks right",
    "client_ids": ["c-1"],
    "run_id": "r-1",
    "node_id": "n-1",
    "metadata": {"k": [1, None, "ä"]},
}
ID = "0193400c-0000-7000-8000-000000000001"


def payload(**changed: object) -> bytes:
    """What both kinds of delivery carry: `ANSWERED`, with some members changed."""
    event = {
        "type": "question.resolved",
        "timestamp": "2026-11-21T14:00:00.000Z",
        "data": dict(ANSWERED) | changed,
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def delivery(
    kind: str = "callback",
    target: str = "http://127.0.0.1/hook",
    *,
    delivery_id: str = ID,
    attempts: int = 0,
    created_at: float = 1000.0,
    **changed: object,
) -> Delivery:
    """A leased row."""
    return Delivery(
        id=delivery_id,
        question_id=str(changed.get("question_id", "q-1")),
        kind=kind,
        target="" if kind == "forward" else target,
        payload=payload(**changed),
        attempts=attempts,
        created_at=created_at,
    )
