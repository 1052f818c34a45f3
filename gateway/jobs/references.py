"""References into the results of a job: how a step's request is made of earlier answers. Pure.

A reference is a JSON pointer (RFC 6901), and nothing is ever evaluated. In a string `${/pointer}`
is replaced by the text of the value, `$${` stands for `${` itself. In place of a value
`{"$result": "/pointer"}` is the value itself, whatever its kind; with `"$default"` beside it that
is taken where there is none. What a reference is put into decides how: percent-encoded in a path
(RFC 3986 §3.3), where it never makes a segment `.`, `..` or an empty one; without control
characters in a header field (RFC 9110 §5.5). Names of members, queries and fields are literal.

When a step may see which results is in `graph`, the conditions are in `conditions`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, unquote

from gateway.jobs.models import ServiceRequest

# Deeper templates are no request any more; Python's own bound is 1000 frames.
MAX_DEPTH: Final = 64
# What one template may take out of the results: an answer is 4 MiB at most, and a template that
# names a large one again and again must not fill the worker's memory.
MAX_CHARACTERS: Final = 4 * 1024 * 1024
# What a value costs besides its text, in memory and in time: a list of empty texts is not free.
VALUE_CHARACTERS: Final = 32
# Of a value that is taken; with the template around it still no deeper than JSON writers go, which
# templates that take what templates made would be before long.
MAX_TAKEN_DEPTH: Final = 128
# Of where something stands: each of thousands of references has its own, and a member's name may be
# as long as the input. What is further down has the place of what it stands in.
MAX_PLACE: Final = 512
ANSWERS: Final = "$answers"
ERRORS: Final = "$errors"
_RESULT: Final = "$result"
_DEFAULT: Final = "$default"
_IN_TEXT: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SLASH: Final = re.compile(r"[/\\]")
_MISSING: Final = object()
_LITERAL: Final = "; for a literal ${ write $${ in its place"


class BadTemplateError(ValueError):
    """A template that can't be read, whatever the results; `pointer` is where in the template."""

    def __init__(self, pointer: str, message: str) -> None:
        self.pointer = pointer
        self.message = message
        super().__init__(f"{pointer or 'the template'}: {message}")


class NoResultError(LookupError):
    """A reference to what isn't there, or has no place there; `reference` is its pointer."""

    def __init__(self, reference: str, message: str) -> None:
        self.reference = reference
        self.message = message
        super().__init__(f"{reference}: {message}")


@dataclass(slots=True)
class Budget:
    """What may still be taken out of the results, where several templates share that: characters,
    and VALUE_CHARACTERS for each value.
    """

    left: int = MAX_CHARACTERS

    def take(self, reference: str, value: Any) -> None:
        """Raises NoResultError for too much, and for what is too deep."""
        level = [value]
        self.left -= VALUE_CHARACTERS
        for _ in range(MAX_TAKEN_DEPTH):
            below: list[Any] = []
            for each in level:
                if isinstance(each, str):
                    self.left -= len(each)
                elif isinstance(each, Mapping):
                    self.left -= sum(map(len, each)) + len(each) * VALUE_CHARACTERS
                    below += each.values() if self.left >= 0 else ()
                elif isinstance(each, list):
                    self.left -= len(each) * VALUE_CHARACTERS
                    below += each if self.left >= 0 else ()
                if self.left < 0:
                    text = f"more than {MAX_CHARACTERS} characters of results"
                    raise NoResultError(reference, text)
            if not below:
                return
            level = below
        raise NoResultError(reference, f"deeper than {MAX_TAKEN_DEPTH} levels")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in a template: the `pointer` and where it stands (`at`, a JSON pointer too)."""

    pointer: str
    at: str
    has_default: bool = False

    @property
    def root(self) -> str | None:
        """The step or other result that it looks into; None: all of them."""
        tokens = tokens_of(self.pointer)
        if tokens and tokens[0] in (ANSWERS, ERRORS):
            del tokens[0]
        return tokens[0] if tokens else None


def tokens_of(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer (RFC 6901 §4). Raises ValueError for what is none."""
    if not pointer:
        return []
    if pointer[0] != "/":
        raise ValueError("a JSON pointer is empty or begins with /")
    if re.search(r"~(?![01])", pointer):
        raise ValueError("in a JSON pointer ~ is followed by 0 or 1")
    return [each.replace("~1", "/").replace("~0", "~") for each in pointer[1:].split("/")]


def escaped(token: str) -> str:
    """A member's name as a reference token (RFC 6901 §3)."""
    return token.replace("~", "~0").replace("/", "~1")


def found(document: Any, pointer: str) -> bool:
    """Whether there is a value at the pointer."""
    return _at(document, pointer) is not _MISSING


def resolve(document: Any, pointer: str) -> Any:
    """The value at the pointer. Raises NoResultError where there is none."""
    value = _at(document, pointer)
    if value is _MISSING:
        raise NoResultError(pointer, "there is no such value in the results")
    return value


def references(template: Any, at: str = "") -> Iterator[Reference]:
    """All references of a template. Raises BadTemplateError for one that can't be read."""
    yield from _walk(template, at, 0)


def references_of(request: ServiceRequest, at: str = "") -> Iterator[Reference]:
    """All references of a request. Raises BadTemplateError."""
    yield from references(request.path, at + "/path")
    yield from references(request.query, at + "/query")
    yield from references(request.headers, at + "/headers")
    yield from references(request.body, at + "/body")


def faults(template: Any, known: Collection[str] | None = None) -> list[tuple[str, str]]:
    """What is wrong with a template, as (JSON pointer into it, message); `known`: the results that
    it may look into, None: any.
    """
    try:
        return unknown(references(template), known)
    except BadTemplateError as error:
        return [(error.pointer, error.message)]


def unknown(found: Iterable[Reference], known: Collection[str] | None) -> list[tuple[str, str]]:
    """Those references that look into no known result, as (where, message)."""
    return [
        (each.at, f"there is no result {each.root}")
        for each in found
        if known is not None and each.root is not None and each.root not in known
    ]


def path_climbs(template: str) -> bool:
    """Whether a path has a segment that is . or .., whatever its references come to."""
    return _climbs(_IN_TEXT.sub("x", template))


def fill(template: Any, results: Any, lenient: bool = False, budget: Budget | None = None) -> Any:
    """The template with its references replaced.

    `lenient`: what isn't there is null, or nothing in a string (for outputs: by then all has been
    done, and a missing part must not undo it). `budget` is shared with other templates. Raises
    NoResultError, BadTemplateError.
    """
    return _Filling(results, lenient, budget).value(template, 0)


def fill_request(request: ServiceRequest, results: Any) -> ServiceRequest:
    """The request with its references replaced; an untouched copy where it is a target already.

    Values in the query stay what they are (a list is a repeated parameter, null none), to be
    encoded with the target. Raises NoResultError, BadTemplateError.
    """
    filling = _Filling(results, lenient=False)
    return replace(
        request,
        path=filling.path(request.path),
        query={name: filling.parameter(each) for name, each in request.query.items()},
        headers={name: filling.field(name, each) for name, each in request.headers.items()},
        body=filling.value(request.body, 0),
    )


def query_string(query: Mapping[str, Any]) -> str:
    """A query as `application/x-www-form-urlencoded` without the plus sign: each name and value
    percent-encoded, lists as repeated parameters, null as none. Empty for an empty one.
    """
    pairs = []
    for name, value in query.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                pairs.append(f"{quote(name, safe='')}={quote(_text(each), safe='')}")
    return "&".join(pairs)


class _Filling:
    """One template, and how much it has taken out of the results."""

    def __init__(self, results: Any, lenient: bool, budget: Budget | None = None) -> None:
        self._results = results
        self._lenient = lenient
        self._budget = budget or Budget()

    def value(self, template: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise BadTemplateError("", f"deeper than {MAX_DEPTH} levels")
        if isinstance(template, str):
            return self.text(template)
        if isinstance(template, list):
            return [self.value(each, depth + 1) for each in template]
        if isinstance(template, dict):
            if _RESULT in template:
                return self._taken(template)
            return {name: self.value(each, depth + 1) for name, each in template.items()}
        return template

    def text(self, template: str) -> str:
        return self._replaced(template, lambda _, value: _text(value))

    def path(self, template: str) -> str:
        filled = self._replaced(template, _segment)
        if _climbs(filled):
            raise NoResultError(template, "a path has no segment that is . or ..")
        return filled

    def parameter(self, template: Any) -> Any:
        value = self.value(template, 0)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (dict, list)):
                raise NoResultError(_named(template), "an object or list of lists in a query")
        return value

    def field(self, name: str, template: str) -> str:
        filled = self._replaced(template, _scalar)
        if _CONTROL.search(filled):
            raise NoResultError(template, f"the field {name} has no control characters")
        return filled

    def _replaced(self, template: str, put: Callable[[str, Any], str]) -> str:
        if "${" not in template:
            return template

        def each(match: re.Match[str]) -> str:
            if match[1] is None:
                return "${"
            pointer = _pointer(match, "")
            value = self._found(pointer)
            if value is _MISSING:
                if self._lenient:
                    return ""
                raise NoResultError(pointer, "there is no such value in the results")
            return put(pointer, value)

        return _IN_TEXT.sub(each, template)

    def _taken(self, template: dict[str, Any]) -> Any:
        pointer = _value_pointer(template, "")
        value = self._found(pointer)
        if value is not _MISSING:
            return value
        if _DEFAULT in template:
            return template[_DEFAULT]
        if self._lenient:
            return None
        raise NoResultError(pointer, "there is no such value in the results")

    def _found(self, pointer: str) -> Any:
        value = _at(self._results, pointer)
        if value is not _MISSING:
            self._budget.take(pointer, value)
        return value


def _at(document: Any, pointer: str) -> Any:
    value = document
    for token in tokens_of(pointer):
        if isinstance(value, Mapping) and token in value:
            value = value[token]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return _MISSING
    return value


def _walk(template: Any, at: str, depth: int) -> Iterator[Reference]:
    if depth > MAX_DEPTH:
        raise BadTemplateError(at, f"deeper than {MAX_DEPTH} levels")
    if isinstance(template, str):
        for match in _IN_TEXT.finditer(template):
            if match[1] is not None:
                yield Reference(_pointer(match, at), at)
    elif isinstance(template, list):
        for index, each in enumerate(template):
            yield from _walk(each, _below(at, str(index)), depth + 1)
    elif isinstance(template, dict):
        if _RESULT in template:
            yield Reference(_value_pointer(template, at), at, _DEFAULT in template)
            return
        for name, each in template.items():
            yield from _walk(each, _below(at, name), depth + 1)


def _below(at: str, token: str) -> str:
    return at if len(at) + len(token) >= MAX_PLACE else f"{at}/{escaped(token)}"


def _pointer(match: re.Match[str], at: str) -> str:
    if not match[0].endswith("}"):
        raise BadTemplateError(at, f"a reference without its }}{_LITERAL}")
    return _checked(match[1], at, _LITERAL)


def _value_pointer(template: dict[str, Any], at: str) -> str:
    pointer = template[_RESULT]
    if not template.keys() <= {_RESULT, _DEFAULT}:
        raise BadTemplateError(at, f"beside {_RESULT} stands {_DEFAULT} only")
    if not isinstance(pointer, str):
        raise BadTemplateError(at, f"{_RESULT} is a JSON pointer")
    return _checked(pointer, at, "")


def _checked(pointer: str, at: str, hint: str) -> str:
    try:
        tokens_of(pointer)
    except ValueError as error:
        raise BadTemplateError(at, f"{error}{hint}") from None
    return pointer


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # JSON's own text for all else, so that true is not True and 1.0 stays 1.0.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _climbs(path: str) -> bool:
    """As the most careless server may read it: decoded first, then cut, parameters left out."""
    segments = _SLASH.split(unquote(path.split("?", 1)[0]))
    return any(each.partition(";")[0] in (".", "..") for each in segments)


def _scalar(pointer: str, value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        raise NoResultError(pointer, "null, an object or a list has no text here")
    return _text(value)


def _segment(pointer: str, value: Any) -> str:
    text = quote(_scalar(pointer, value), safe="")
    if not text:
        # DELETE /orders/${/a/id} with an empty id would be about all orders.
        raise NoResultError(pointer, "empty in a path")
    return text


def _named(template: Any) -> str:
    return next((each.pointer for each in references(template)), "")
