"""What a database's errors mean for who asked: away, slow, or worth another try at once.

Nothing of an error's parameters is repeated: they hold questions and answers.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnectionError


class Fault(Enum):
    """What an error is a sign of."""

    AWAY = "away"  # nothing was done
    SLOW = "slow"  # it may still come about
    AGAIN = "again"  # another transaction came first: the same work once more sees what it did
    OURS = "ours"  # a bug, or data that the database does not take


# PostgreSQL's SQLSTATE classes and codes (its manual's appendix A).
_AWAY_CLASSES: Final = ("08", "3D", "28", "53", "57", "58", "F0", "XX")
_SLOW_CODES: Final = frozenset(("57014", "55P03", "25P03", "25P04"))
_AGAIN_CODES: Final = frozenset(("40001", "40P01", "23505"))


def classify(error: BaseException) -> Fault:
    """What an error of a driver, of SQLAlchemy or of the loop means."""
    if isinstance(error, NoConnectionError):
        return Fault.AWAY  # all connections are busy
    if isinstance(error, TimeoutError):
        return Fault.SLOW
    if isinstance(error, DBAPIError):
        return _of_driver(error)
    # asyncpg's own errors while connecting are not wrapped.
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _by_state(state)
    if isinstance(error, OSError) or type(error).__module__.startswith("asyncpg"):
        return Fault.AWAY
    return Fault.OURS


def _of_driver(error: DBAPIError) -> Fault:
    cause: BaseException | None = error.orig
    while cause is not None:
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            return _by_state(state)
        if isinstance(cause, TimeoutError):
            return Fault.SLOW
        if isinstance(cause, OSError):
            return Fault.AWAY
        cause = cause.__cause__
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Fault.SLOW
    if name.startswith(("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE")):
        return Fault.AGAIN
    if name and not name.startswith(("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")):
        return Fault.AWAY  # the disk is full or read-only, the file is broken or gone
    if error.connection_invalidated:
        return Fault.AWAY
    return Fault.AGAIN if isinstance(error, IntegrityError) and not name else Fault.OURS


def _by_state(state: str) -> Fault:
    if state in _AGAIN_CODES:
        return Fault.AGAIN
    if state in _SLOW_CODES:
        return Fault.SLOW
    return Fault.AWAY if state.startswith(_AWAY_CLASSES) else Fault.OURS


def brief(error: BaseException) -> str:
    """For logs and health: what kind of error, without its parameters."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = str(cause).partition("\n")[0]
    return f"{type(cause).__name__}: {text[:200]}" if text else type(cause).__name__
