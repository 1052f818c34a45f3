"""How jobs refuse: one exception that carries the gateway's error, for who asked over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import Rejection
from sse.schema_words import brief

# What is wrong with an input: a client that got more wrong than this sends something else.
MAX_FAULTS: Final = 20
# Of a fault's place and of its words: names that were given stand in both, as long as the input.
MAX_PLACE: Final = 512
MAX_WORDS: Final = 512


class JobRefusedError(Exception):
    """A call about a job is refused; the text tells a client what to do."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def unprocessable(
    faults: Sequence[tuple[str, str]], nothing: str = "Nothing was started."
) -> JobRefusedError:
    """The refusal of an input; `faults` are (JSON pointer, message) pairs, at least one. `nothing`
    says what was not done.
    """
    told = tuple((_place(at), brief(text, MAX_WORDS)) for at, text in faults[:MAX_FAULTS])
    at, text = told[0]
    message = f"{nothing} {f'{at}: ' if at else ''}{text}"
    return JobRefusedError(Rejection("UNPROCESSABLE", message, details=told))


def _place(at: str) -> str:
    """A pointer; of a long one that to what it stands in."""
    return at if len(at) <= MAX_PLACE else at[: MAX_PLACE + 1].rpartition("/")[0]


def no_such_job() -> JobRefusedError:
    """Of an id that nobody has, and of one that is another's: both read the same."""
    return JobRefusedError(
        Rejection("NOT_FOUND", "There is no job of this id, or it is none of yours.")
    )


def away(message: str, retry_after_seconds: int = 1) -> JobRefusedError:
    """Temporal, or a worker, is not there just now."""
    return JobRefusedError(Rejection("SERVICE_UNAVAILABLE", message, retry_after_seconds))
