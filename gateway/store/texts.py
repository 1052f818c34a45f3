"""What text the tables take: as long as its column, without NUL (PostgreSQL) and without halves of
surrogate pairs, which UTF-8 can't hold and claims of a token may.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column


def most_characters(column: Column[Any]) -> int:
    """How long the texts of a column may be."""
    kind: Any = column.type
    return int(kind.length)


def is_storable(text: str, column: Column[Any]) -> bool:
    """Whether a text can be kept as it is."""
    return len(text) <= most_characters(column) and plain(text) == text


def fitting(text: str | None, most: int) -> str | None:
    """A text as it can be kept: what can't is escaped, what is too much is cut."""
    return text if text is None else plain(text[:most])[:most]


def plain(text: str) -> str:
    """A text with NUL and halves of surrogate pairs escaped."""
    if text.isascii():
        return text if "\0" not in text else text.replace("\0", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
