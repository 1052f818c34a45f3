"""Which questions are open for a client id, for streams that open: many at a time.

The difficulty is an event whose place is not noted yet. A stream sends a question again unless its
replay held the event, or the event is still to come; to tell that it needs the place. Where the
place is not known, the event may be out already or not, and what is neither sent again nor still to
come would be lost. So the look-up waits a moment for the note and asks again; if it never comes,
the question is sent again, perhaps once too often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sse.question import OPEN
from sse.question_events import Log, QuestionEvents, Stage
from sse.question_lookups import Lookups
from sse.question_store import QuestionStore, Shown, StoreAwayError
from sse.stream import OpenQuestion

# Of one client id. Nobody answers a thousand at a sitting; they are listed by pages all the same.
MOST_OF_CLIENT: Final = 1000
AGAIN_SECONDS: Final = 0.1
_TRIES: Final = 10
# A place that no history holds: the question is sent again.
_NOWHERE: Final = ""

Deliver = Callable[[list[OpenQuestion]], None]


class OpenQuestions:
    """Finds them, and never fails: without a database there are none to send again."""

    def __init__(self, store: QuestionStore, events: QuestionEvents, log: Log) -> None:
        self._events = events
        self._log = log
        self._lookups: Lookups[list[Shown]] = Lookups(
            lambda client_ids: store.open_for(client_ids, MOST_OF_CLIENT)
        )

    def __repr__(self) -> str:
        return f"<OpenQuestions {self._lookups!r}>"

    def find(self, client_id: str, deliver: Deliver, tries: int = _TRIES) -> None:
        """Call `deliver` once, later, with what is open for a client id, oldest first."""
        try:
            asked = self._lookups.ask(client_id)
        except StoreAwayError:
            self._log.warning("question.not_sent_again", reason="too many streams open at once")
            deliver([])
            return
        asked.add_done_callback(lambda done: self._found(client_id, deliver, tries, done))

    def _found(
        self,
        client_id: str,
        deliver: Deliver,
        tries: int,
        done: asyncio.Future[list[Shown] | None],
    ) -> None:
        if done.cancelled() or done.exception() is not None:
            self._log.warning("question.not_sent_again", reason="the database is away")
            deliver([])
            return
        found: list[OpenQuestion] = []
        for each in done.result() or ():
            position: str | Stage | None = each.position
            if position is None:
                position = self._events.place(each.question_id, client_id)
            if position is Stage.UNKNOWN and tries > 0:
                again = asyncio.get_running_loop().call_later
                again(AGAIN_SECONDS, self.find, client_id, deliver, tries - 1)
                return
            shown = b'%b,"status":"%b"}' % (each.document[:-1], OPEN.encode())
            found.append(OpenQuestion(each.question_id, shown, _position(position)))
        deliver(found)

    async def close(self) -> None:
        """Finish what was asked."""
        await self._lookups.close()


def _position(position: str | Stage) -> str | None:
    if isinstance(position, str):
        return position
    return None if position is Stage.WAITING else _NOWHERE
