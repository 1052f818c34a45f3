"""What tests of questions have in common: asking, answering, opening a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.policy.auth import Identity
from sse.event import Refused
from sse.stream import OpenQuestion
from tests.asking import ASKER, Room, someone

ALICE, BOB = someone("alice"), someone("bob")


async def asked(here: Room, caller: Identity = ASKER, **members: Any) -> str:
    """The id of a new question."""
    body = {"client_ids": ["alice"], "prompt": "Deploy?"} | members
    question, is_new = await here.questions.ask(caller, body)
    assert is_new
    assert json.loads(question.data)["status"] == "open"
    return question.question_id


async def answer(
    here: Room, question_id: str, caller: Identity = ALICE, body: object = b'{"response": 1}',
    key: bytes | None = None, client_id: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What an answer is answered; raises Refused."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    questions = here.questions
    if client_id is None:
        done = await questions.answer(caller, "192.0.2.1", question_id, body, key)
    else:
        done = await questions.answer_for_client(caller, "192.0.2.1", client_id, body, key)
    told: dict[str, Any] = json.loads(done.body)
    return told


async def code(work: Any) -> str:
    with pytest.raises(Refused) as caught:
        await work
    return caught.value.code


async def open_for(here: Room, client_id: str) -> list[tuple[str, str | None]]:
    """What a stream that opens now is told."""
    told: asyncio.Future[list[OpenQuestion]] = asyncio.get_running_loop().create_future()
    here.questions.open_for(client_id, told.set_result)
    return [(each.question_id, each.position) for each in await told]
