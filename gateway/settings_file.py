"""Settings files: TOML with `include`, each value with the file and line where it stands.

tomllib knows no lines, so a small scan of headers and keys finds them; where it finds none (a table
in braces) the line of the table is said. What the keys mean is not known here.
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
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART = re.compile(_KEY)
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")
_AT_END = re.compile(r"\s*\(at end of document\)")

Path_ = tuple[str, ...]


@dataclass(slots=True)
class FileValues:
    """What a file and its includes say: top-level keys, the keys of each service, and those of
    `[questions.forward]`.
    """

    top: dict[str, Value] = field(default_factory=dict)
    services: dict[str, dict[str, Value]] = field(default_factory=dict)
    forward: dict[str, Value] = field(default_factory=dict)

    def absorb(self, other: FileValues) -> None:
        """Take what `other` says; it wins key by key."""
        self.top.update(other.top)
        for name, keys in other.services.items():
            self.services.setdefault(name, {}).update(keys)
        self.forward.update(other.forward)


def read_file(file: Path, _above: tuple[Path, ...] = ()) -> FileValues:
    """Read `file` and what it includes; a file wins over its includes, a later include over an
    earlier.

    Raises SettingsError (`file:line: …`) when a file is missing, is not TOML, or includes itself.
    """
    resolved = file.resolve()
    try:
        content = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}, expected a readable file") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}:1: not UTF-8, expected a TOML file") from None
    tree = _parse(file, content)
    lines = _line_numbers(content)
    values = FileValues()
    include = tree.pop("include", None)
    if include is not None:
        value = Value("include", include, _place(file, lines, ("include",)))
        for name in words(value):
            included = file.parent / name
            if included.resolve() in (*_above, resolved):
                raise value.error(
                    f"leads back to {included}", "files that do not include each other"
                )
            if not included.is_file():
                raise value.error(f"names {included}, which is missing", "a file beside this one")
            values.absorb(read_file(included, (*_above, resolved)))
    values.absorb(_own_values(file, tree, lines))
    return values


def _parse(file: Path, content: str) -> dict[str, object]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at_line = _AT_LINE.search(message)
        line = int(at_line[1]) if at_line else max(1, len(content.splitlines()))
        message = _AT_END.sub(" at the end", _AT_LINE.sub("", message))
        raise SettingsError(f"{file}:{line}: {message}, expected TOML") from None


def _own_values(file: Path, tree: Mapping[str, object], lines: Mapping[Path_, int]) -> FileValues:
    values = FileValues()

    def said(raw: object, *path: str) -> Value:
        return Value(".".join(path), raw, _place(file, lines, path))

    def tables(raw: object, key: str, example: str) -> dict[str, dict[str, Value]]:
        """The tables `[key.<name>]`; under the empty key each says where it stands itself."""
        if not isinstance(raw, dict):
            raise said(raw, key).wrong(f"tables, such as [{example}]")
        found: dict[str, dict[str, Value]] = {}
        for name, table in raw.items():
            if not isinstance(table, dict):
                raise said(table, key, name).wrong(f"a table [{key}.{name}]")
            found[name] = {inner: said(item, key, name, inner) for inner, item in table.items()}
            found[name].setdefault("", said(None, key, name))
        return found

    for key, raw in tree.items():
        if key == "services":
            values.services = tables(raw, key, "services.orders")
        elif key == "questions":
            about = tables(raw, key, "questions.forward")
            values.forward = about.pop("forward", {})
            for unknown in about.values():
                raise unknown[""].error("is unknown", "the table [questions.forward]")
        else:
            values.top[key] = said(raw, key)
    return values


def _place(file: Path, lines: Mapping[Path_, int], path: Path_) -> str:
    """`file:line` of a key, or of the nearest table around it."""
    while path and path not in lines:
        path = path[:-1]
    return f"{file}:{lines.get(path, 1)}"


def _line_numbers(content: str) -> dict[Path_, int]:
    """The line of every table header and key; the content is known to be TOML."""
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    quotes = ""
    for number, line in enumerate(content.splitlines(), 1):
        if not quotes:
            if header := _HEADER.match(line):
                table = _split(header[1])
                lines.setdefault(table, number)
            elif key := _ASSIGNMENT.match(line):
                path = table + _split(key[1])
                for length in range(len(table) + 1, len(path) + 1):
                    lines.setdefault(path[:length], number)
        for mark in ('"""', "'''"):
            if quotes in ("", mark) and line.count(mark) % 2:
                quotes = "" if quotes else mark
    return lines


def _split(dotted: str) -> Path_:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
