"""What a database's errors mean for who asked."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from gateway.store.faults import Fault, brief, classify


def wrapped(error: BaseException, kind: type[DBAPIError] = DBAPIError, **more: Any) -> DBAPIError:
    """As SQLAlchemy raises a driver's error."""
    return kind("SELECT secret", {"answer": "secret"}, error, **more)


def sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("told\nmore")
    error.sqlite_errorname = name
    return error


def state(code: str) -> Exception:
    error = Exception("asyncpg's adapter")
    error.sqlstate = code  # type: ignore[attr-defined]
    return error


def caused(by: BaseException) -> Exception:
    error = Exception("adapter")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (NoConnectionError(), Fault.AWAY),
        (TimeoutError(), Fault.SLOW),
        (ConnectionRefusedError(), Fault.AWAY),
        (PermissionError(13, "no"), Fault.AWAY),
        (asyncpg.InterfaceError("closed"), Fault.AWAY),
        (asyncpg.InvalidPasswordError("no"), Fault.AWAY),
        (asyncpg.InvalidCatalogNameError("no"), Fault.AWAY),
        (asyncpg.TooManyConnectionsError("no"), Fault.AWAY),
        (wrapped(asyncpg.DeadlockDetectedError("x")), Fault.AGAIN),
        (wrapped(state("40001")), Fault.AGAIN),
        (wrapped(state("23505"), IntegrityError), Fault.AGAIN),
        (wrapped(state("57014")), Fault.SLOW),
        (wrapped(state("57P01")), Fault.AWAY),
        (wrapped(state("53100")), Fault.AWAY),
        (wrapped(state("22021")), Fault.OURS),
        (wrapped(state("42P01")), Fault.OURS),
        (wrapped(caused(TimeoutError())), Fault.SLOW),
        (wrapped(caused(ConnectionResetError())), Fault.AWAY),
        (wrapped(Exception("x"), connection_invalidated=True), Fault.AWAY),
        (wrapped(Exception("x"), IntegrityError), Fault.AGAIN),
        (wrapped(Exception("x")), Fault.OURS),
        (wrapped(sqlite("SQLITE_BUSY")), Fault.SLOW),
        (wrapped(sqlite("SQLITE_BUSY_SNAPSHOT")), Fault.SLOW),
        (wrapped(sqlite("SQLITE_LOCKED_SHAREDCACHE")), Fault.SLOW),
        (wrapped(sqlite("SQLITE_FULL")), Fault.AWAY),
        (wrapped(sqlite("SQLITE_IOERR_WRITE")), Fault.AWAY),
        (wrapped(sqlite("SQLITE_READONLY")), Fault.AWAY),
        (wrapped(sqlite("SQLITE_CORRUPT")), Fault.AWAY),
        (wrapped(sqlite("SQLITE_CONSTRAINT_PRIMARYKEY"), IntegrityError), Fault.AGAIN),
        (wrapped(sqlite("SQLITE_CONSTRAINT_NOTNULL"), IntegrityError), Fault.OURS),
        (wrapped(sqlite("SQLITE_ERROR")), Fault.OURS),
        (InvalidRequestError("a bug"), Fault.OURS),
        (ValueError("a bug"), Fault.OURS),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_error_says_whether_it_may_be_tried_again(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


def test_what_is_said_of_an_error_is_one_line_without_what_was_asked() -> None:
    assert brief(wrapped(sqlite("SQLITE_FULL"))) == "OperationalError: told"
    assert brief(TimeoutError()) == "TimeoutError"
    assert len(brief(ValueError("x" * 5000))) < 300
