"""Patterns of paths: how one is written, which paths it covers, which of two is the more specific.
Pure.

Rows of a route table and rules of limits are written in them: `/a/b`, `/a/:id`, `/a/*`, `/a/*rest`,
`/a*`. A path is compared in its plain form, since back ends read `/%61//b;v=1/` as `/a/b`; what is
forwarded is never that form. How many patterns are searched at once is in `routing/patterns.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final
from urllib.parse import quote

# What stays escaped: decoded it would change where a path or one of its segments ends. RFC 3986
# §6.2.2.2 asks for the unreserved characters only; a back end decodes the others all the same, so
# that `/%40me` is `/@me` to it, and a row for one has to hold the other too.
_KEPT: Final = frozenset(b"/\\%;?#\x00")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_DECODED: Final = {
    b"%%%02x" % byte: b"%%%02X" % byte if byte in _KEPT else bytes((byte,)) for byte in range(256)
}
_PARAMETER: Final = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)").fullmatch
_REST: Final = re.compile(r"\*([A-Za-z_][A-Za-z0-9_]*)?").fullmatch
# RFC 3986 §3.3: pchar without `;` and `*`, which mean something else here.
_LITERAL: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()+,=:@\x80-\xff-]|%[0-9A-Fa-f]{2})+").fullmatch
_NEVER: Final = re.compile(rb"[/\\%;?#\x00-\x20\x7f]")
MAX_SEGMENTS: Final = 64  # deeper than any path that people write


class PatternError(ValueError):
    """What is wrong with a pattern; the text goes on after `is '…':`."""


class Kind(IntEnum):
    """What a segment of a pattern stands for, the most specific first."""

    LITERAL = 0
    STEM = 1  # any segment that begins so; only the last of an open pattern
    PARAMETER = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: `text` is the plain form of a literal or a stem, `name` that of a parameter."""

    kind: Kind
    text: bytes = b""
    name: str = ""

    def covers(self, other: Segment) -> bool:
        """Whether every segment that `other` stands for is one of these."""
        if self.kind is Kind.PARAMETER:
            return True
        if self.kind is Kind.STEM:
            return other.kind is not Kind.PARAMETER and other.text.startswith(self.text)
        return other.kind is Kind.LITERAL and other.text == self.text

    def holds(self, plain: bytes) -> bool:
        """Whether it stands for this segment of a path."""
        if self.kind is Kind.LITERAL:
            return plain == self.text
        return plain.startswith(self.text)


@dataclass(frozen=True)
class Pattern:
    """A pattern as it was written, and its segments without the rest.

    `is_open`: paths below belong to it. `rest` is the name of what is below (empty: it has none),
    None where a rewrite can't speak of it.
    """

    text: str
    segments: tuple[Segment, ...]
    is_open: bool = False
    rest: str | None = None

    def covers(self, segments: Sequence[bytes]) -> bool:
        """Whether a path is this pattern's, by its `plain_segments`."""
        own = self.segments
        if len(segments) < len(own) or (len(segments) > len(own) and not self.is_open):
            return False
        return all(mine.holds(plain) for mine, plain in zip(own, segments, strict=False))

    def contains(self, other: Pattern) -> bool:
        """Whether every path of `other` is one of this pattern's."""
        own, others = self.segments, other.segments
        if not self.is_open and (other.is_open or len(own) != len(others)):
            return False
        return len(own) <= len(others) and all(map(Segment.covers, own, others))

    @property
    def names(self) -> tuple[str, ...]:
        """Its parameters, in order, without the rest's."""
        return tuple(segment.name for segment in self.segments if segment.kind is Kind.PARAMETER)

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """The same for two patterns that cover the same paths, whatever their parameters' names."""
        return (self.is_open, *((segment.kind, segment.text) for segment in self.segments))

    @cached_property
    def order(self) -> tuple[object, ...]:
        """Of two patterns that cover a path the one of lesser order is the more specific.

        Exact before parameters before open ones; among open ones the deeper first; then the one
        with a literal at the first place where they differ.
        """
        kinds = tuple(segment.kind for segment in self.segments)
        stem = len(self.segments[-1].text) if Kind.STEM in kinds else 0
        rank = 2 if self.is_open else 1 if Kind.PARAMETER in kinds else 0
        return (rank, -len(kinds), kinds, -stem)

    def __str__(self) -> str:
        return self.text


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` writes; raises PatternError.

    A slash at the end says nothing: `/a/` is `/a`, as in the paths that are compared.
    """
    if not text.startswith("/"):
        raise PatternError("it does not begin with /")
    parts = text[1:].split("/")
    if parts[-1] == "":
        parts.pop()
    if len(parts) > MAX_SEGMENTS:
        raise PatternError(f"it has more than {MAX_SEGMENTS} segments")
    rest = _REST(parts[-1]) if parts else None
    if rest is not None:
        parts.pop()
    segments = [_segment(part) for part in parts]
    is_stem = any(segment.kind is Kind.STEM for segment in segments)
    if is_stem and (rest is not None or segments[-1].kind is not Kind.STEM):
        raise PatternError("a * can only be the last character, or begin the last segment")
    if any(segment.kind is Kind.STEM for segment in segments[:-1]):
        raise PatternError("it has two *")
    names = [segment.name for segment in segments if segment.name]
    if rest is not None and rest[1]:
        names.append(rest[1])
    if len(set(names)) < len(names):
        raise PatternError("two parameters have one name")
    return Pattern(
        text,
        tuple(segments),
        is_open=is_stem or rest is not None,
        rest=None if rest is None else rest[1] or "",
    )


def _segment(part: str) -> Segment:
    parameter = _PARAMETER(part)
    if parameter is not None:
        return Segment(Kind.PARAMETER, name=parameter[1])
    if part.startswith(":"):
        raise PatternError(f"{part!r} is no parameter, which is a : and letters, digits or _")
    if part.endswith("*"):
        return Segment(Kind.STEM, literal(part[:-1]))
    return Segment(Kind.LITERAL, literal(part))


def literal(part: str) -> bytes:
    """The plain form of a segment that stands for itself; raises PatternError where no path that is
    let in can have it.
    """
    if part == "":
        raise PatternError("it has an empty segment")
    raw = part.encode("utf-8")
    if not _LITERAL(raw):
        raise PatternError(f"{part!r} can't stand in a path (RFC 3986 §3.3)")
    plain = plain_segment(raw)
    if plain in (b".", b"..") or _NEVER.search(plain):
        raise PatternError(f"{part!r} is in no path that is let in")
    return plain


def plain_segment(segment: bytes) -> bytes:
    """A segment of a path as it is compared: without `;parameters`, escapes decoded."""
    if b";" in segment:
        segment = segment.partition(b";")[0]
    if b"%" in segment:
        return _ESCAPE.sub(_decoded, segment)
    return segment


def _decoded(escape: re.Match[bytes]) -> bytes:
    return _DECODED[escape[0].lower()]


def plain_segments(path: bytes) -> list[bytes]:
    """A path as it is compared: its plain segments, those that are empty left out."""
    return [plain for segment in path.split(b"/") if (plain := plain_segment(segment))]


def position_behind(path: bytes, count: int) -> int:
    """Where the bytes behind the first `count` segments begin, those not counted that are left out
    of the plain form.
    """
    at = 0
    while count:
        start = at + 1
        at = path.find(b"/", start)
        if at < 0:
            at = len(path)
        if plain_segment(path[start:at]):
            count -= 1
    return at


def plain_path(path: bytes) -> bytes:
    """A path as it is compared, in one piece: `/` and its plain segments."""
    text = path.decode("latin-1")  # looking for two bytes in bytes takes twice the time
    if "%" in text or ";" in text or "//" in text:
        return b"/" + b"/".join(plain_segments(path))
    return path[:-1] if text[-1:] == "/" and len(path) > 1 else path


def path_text(path: bytes) -> str:
    """A path as it is compared, as text: for rules that are written in text."""
    return plain_path(path).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What a service gets instead of the path that came: pieces that are said, segments of the path
    by their place, and what is behind its first `rest_behind` segments; all as the bytes that came.
    """

    text: str
    pieces: tuple[bytes | int, ...]
    rest_behind: int | None = None

    def __call__(self, path: bytes) -> bytes:
        """The path to forward, empty or beginning with a slash; `path` is one that the pattern
        covers.
        """
        pieces: list[bytes] = []
        came: list[bytes] = []
        for piece in self.pieces:
            if isinstance(piece, bytes):
                pieces.append(piece)
            else:
                came = came or [part for part in path.split(b"/") if plain_segment(part)]
                pieces.append(came[piece])
        if self.rest_behind is not None:
            pieces.append(path[position_behind(path, self.rest_behind) :])
        return b"".join(pieces)

    def __str__(self) -> str:
        return self.text


def parse_rewrite(text: str, pattern: Pattern) -> Rewrite:
    """`/v2/:id/*rest` in the names of the pattern; `*` is its rest, whatever that is called.

    Raises PatternError. No request climbs out of what it says: a parameter is one segment that is
    no dots, and the rest holds none (`routing.table.split_target` refuses them).
    """
    if not text.startswith("/"):
        raise PatternError("it does not begin with /")
    places = {segment.name: at for at, segment in enumerate(pattern.segments) if segment.name}
    *front, last = text[1:].split("/")
    rest = _REST(last)
    pieces: list[bytes | int] = []
    for part in (*front, last) if last and rest is None else front:
        parameter = _PARAMETER(part)
        if parameter is None:
            pieces.append(b"/" + _said(part))
        elif parameter[1] in places:
            pieces += (b"/", places[parameter[1]])
        else:
            raise PatternError(f"the path {pattern} has no :{parameter[1]}")
    if not last:
        pieces.append(b"/")
    if rest is None:
        return Rewrite(text, tuple(pieces))
    if pattern.rest is None or rest[1] not in (None, pattern.rest):
        raise PatternError(f"the path {pattern} has no {last} at its end")
    return Rewrite(text, tuple(pieces), len(pattern.segments))


def parse_strip(text: str, pattern: Pattern) -> Rewrite:
    """The rewrite that leaves out `text`, which the pattern begins with. Raises PatternError."""
    stripped = parse_pattern(text)
    count = len(stripped.segments)
    if stripped.is_open or count == 0 or stripped.segments != pattern.segments[:count]:
        raise PatternError(f"the path {pattern} does not begin with it")
    return Rewrite(text, (), count)


def _said(part: str) -> bytes:
    """A segment of a rewrite that stands for itself, as bytes of a path."""
    if part.startswith(":"):
        raise PatternError(f"{part!r} is no parameter")
    literal(part)
    return quote(part, safe="!$%&'()+,=:@~").encode("ascii")
