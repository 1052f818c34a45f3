"""Settings files: TOML with `include` and `routes`, each value with the file and line where it
stands.

tomllib knows no lines, so a small scan of headers and keys finds them; where it finds none (a table
in braces) the line of the table is said. What the keys mean is not known here, only which of them
are tables.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.settings_values import SettingsError, Value, words

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART = re.compile(_KEY)
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")
_AT_END = re.compile(r"\s*\(at end of document\)")

Path_ = tuple[str | int, ...]  # keys, and places in arrays of tables
Table = dict[str, Value]  # the empty key says where the table stands


@dataclass(slots=True)
class FileValues:
    """What a file and its includes say: top-level keys, and the tables by their kinds.

    A value in a row of `routes` that is a table itself is a `Table` again.
    """

    top: Table = field(default_factory=dict)
    services: dict[str, Table] = field(default_factory=dict)
    forward: Table = field(default_factory=dict)
    tiers: dict[str, Table] = field(default_factory=dict)
    limits: list[Table] = field(default_factory=list)
    abuse: Table = field(default_factory=dict)
    workflows: dict[str, Table] = field(default_factory=dict)
    routes: list[Table] = field(default_factory=list)

    def absorb(self, other: FileValues) -> None:
        """Take what `other` says; it wins key by key, rows add up."""
        self.top.update(other.top)
        pairs = (
            (self.services, other.services),
            (self.tiers, other.tiers),
            (self.workflows, other.workflows),
        )
        for mine, theirs in pairs:
            for name, keys in theirs.items():
                mine.setdefault(name, {}).update(keys)
        self.forward.update(other.forward)
        self.abuse.update(other.abuse)
        self.limits += other.limits
        self.routes += other.routes


def read_file(file: Path, _above: tuple[Path, ...] = ()) -> FileValues:
    """Read `file`, what it includes and its tables of routes; a file wins over its includes, a
    later include over an earlier.

    Raises SettingsError (`file:line: …`) when a file is missing, is not TOML, or includes itself.
    """
    resolved = file.resolve()
    document = _Document.read(file)
    values = FileValues()
    include = document.tree.pop("include", None)
    if include is not None:
        value = document.value(include, "include")
        for included in _named(file, value):
            if included.resolve() in (*_above, resolved):
                raise value.error(
                    f"leads back to {included}", "files that do not include each other"
                )
            values.absorb(read_file(included, (*_above, resolved)))
    values.absorb(_own_values(document))
    return values


def read_tables(file: Path, key: str) -> dict[str, Table]:
    """The tables `[key.<name>]` of a file that holds nothing else.

    Raises SettingsError (`file:line: …`) for a file that can't be read, is not TOML or says more.
    """
    document = _Document.read(file)
    for other, raw in document.tree.items():
        if other != key:
            raise document.value(raw, other).error("is unknown", f"tables [{key}.<name>]")
    return document.tables(key, f"{key}.name") if key in document.tree else {}


def _named(file: Path, value: Value) -> list[Path]:
    """Files that a value names, relative to the file where it stands."""
    found = [file.parent / name for name in words(value)]
    for each in found:
        if not each.is_file():
            raise value.error(f"names {each}, which is missing", "a file beside this one")
    return found


class _Document:
    """One file: its values as TOML has them, and the lines where they stand."""

    def __init__(self, file: Path, content: str) -> None:
        self.file = file
        self.tree = _parse(file, content)
        self._lines = _line_numbers(content)

    @classmethod
    def read(cls, file: Path) -> _Document:
        """Raises SettingsError."""
        try:
            return cls(file, file.read_bytes().decode("utf-8"))
        except OSError as error:
            raise SettingsError(f"{file}: {error.strerror}, expected a readable file") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{file}:1: not UTF-8, expected a TOML file") from None

    def value(self, raw: object, *path: str | int) -> Value:
        """A value and where it stands; places in arrays are no part of its name."""
        name = ".".join(part for part in path if isinstance(part, str))
        return Value(name, raw, _place(self.file, self._lines, path))

    def table(self, raw: Mapping[str, object], *path: str | int) -> Table:
        """The values of a table, and under the empty key where it stands itself."""
        found = {key: self.value(item, *path, key) for key, item in raw.items()}
        found.setdefault("", self.value(None, *path))
        return found

    def deep(self, raw: Mapping[str, object], *path: str | int) -> Table:
        """The same, with the tables in it."""
        found = self.table(raw, *path)
        for key, item in raw.items():
            if isinstance(item, dict):
                found[key] = self.value(self.deep(item, *path, key), *path, key)
        return found

    def tables(self, key: str, example: str) -> dict[str, Table]:
        """The tables `[key.<name>]`."""
        raw = self.tree[key]
        if not isinstance(raw, dict):
            raise self.value(raw, key).wrong(f"tables, such as [{example}]")
        found: dict[str, Table] = {}
        for name, table in raw.items():
            if not isinstance(table, dict):
                raise self.value(table, key, name).wrong(f"a table [{key}.{name}]")
            found[name] = self.table(table, key, name)
        return found

    def one_table(self, key: str) -> Table:
        """The table `[key]`."""
        raw = self.tree[key]
        if not isinstance(raw, dict):
            raise self.value(raw, key).wrong(f"a table [{key}]")
        return self.deep(raw, key)

    def rows(self, key: str) -> list[Table]:
        """The tables `[[key]]`, in order."""
        raw = self.tree[key]
        if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
            raise self.value(raw, key).wrong(f"tables [[{key}]]")
        return [self.deep(row, key, place) for place, row in enumerate(raw)]


def _own_values(document: _Document) -> FileValues:
    values = FileValues()
    for key, raw in document.tree.items():
        if key == "services":
            values.services = document.tables(key, "services.orders")
        elif key == "tiers":
            values.tiers = document.tables(key, "tiers.free")
        elif key == "workflows":
            values.workflows = document.tables(key, "workflows.async_request_workflow")
        elif key == "questions":
            about = document.tables(key, "questions.forward")
            values.forward = about.pop("forward", {})
            for unknown in about.values():
                raise unknown[""].error("is unknown", "the table [questions.forward]")
        elif key == "abuse":
            values.abuse = document.one_table(key)
        elif key == "limits":
            values.limits = document.rows(key)
        elif key == "routes":
            value = document.value(raw, key)
            if isinstance(raw, list) and all(isinstance(row, dict) for row in raw):
                values.routes = document.rows(key)
            else:
                for file in _named(document.file, value):
                    values.routes += _routes(file)
        else:
            values.top[key] = document.value(raw, key)
    return values


def _routes(file: Path) -> list[Table]:
    """The rows of a file of routes; `[defaults]` holds for each that says nothing else."""
    document = _Document.read(file)
    for key, raw in document.tree.items():
        if key not in ("routes", "defaults"):
            raise document.value(raw, key).error("is unknown", "[defaults] and [[routes]]")
    defaults = document.one_table("defaults") if "defaults" in document.tree else {}
    for key in ("path", "name"):
        if key in defaults:
            raise defaults[key].error("can't be the same for all rows", "it in each row")
    rows = document.rows("routes") if "routes" in document.tree else []
    return [defaults | row for row in rows]


def _parse(file: Path, content: str) -> dict[str, object]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at_line = _AT_LINE.search(message)
        line = int(at_line[1]) if at_line else max(1, len(content.splitlines()))
        message = _AT_END.sub(" at the end", _AT_LINE.sub("", message))
        raise SettingsError(f"{file}:{line}: {message}, expected TOML") from None


def _place(file: Path, lines: Mapping[Path_, int], path: Path_) -> str:
    """`file:line` of a key, or of the nearest table around it."""
    while path and path not in lines:
        path = path[:-1]
    return f"{file}:{lines.get(path, 1)}"


def _line_numbers(content: str) -> dict[Path_, int]:
    """The line of every table header and key; the content is known to be TOML."""
    lines: dict[Path_, int] = {}
    last: dict[Path_, int] = {}  # the place of the last table of an array
    table: Path_ = ()
    quotes = ""
    for number, line in enumerate(content.splitlines(), 1):
        if not quotes:
            if header := _HEADER.match(line):
                table = _header(_split(header[2]), last, is_row=header[1] == "[[")
                lines.setdefault(table, number)
            elif key := _ASSIGNMENT.match(line):
                path = table + _split(key[1])
                for length in range(len(table) + 1, len(path) + 1):
                    lines.setdefault(path[:length], number)
        for mark in ('"""', "'''"):
            if quotes in ("", mark) and line.count(mark) % 2:
                quotes = "" if quotes else mark
    return lines


def _header(keys: tuple[str, ...], last: dict[Path_, int], *, is_row: bool) -> Path_:
    """The path of the table that a header begins: behind a key of an array the last of its tables
    is meant, and `[[…]]` begins another.
    """
    path: Path_ = ()
    for at, key in enumerate(keys):
        path += (key,)
        if is_row and at == len(keys) - 1:
            last[path] = last.get(path, -1) + 1
        if path in last:
            path += (last[path],)
    return path


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
