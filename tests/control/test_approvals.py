"""The approvals page as it is handed out; what it does in a browser is in tests/browser."""

from __future__ import annotations

import hashlib
import re
import tomllib
from base64 import b64encode
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from aiohttp import web

from gateway.control.approvals import PATH, headers, routes
from tests.control.conftest import Client, Connect
from tests.processes import ROOT

PAGE = files("gateway.control").joinpath("approvals.html").read_bytes()


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside: str | None = None
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.raw[self._inside].append(data)


@pytest.fixture
async def page(aiohttp_client: Connect) -> Client:
    app = web.Application()
    app.add_routes(routes())
    return await aiohttp_client(app)


def directives(policy: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for words in (part.split() for part in policy.split(";"))}


async def test_the_page_comes_with_the_rules_that_a_browser_holds_it_to(page: Client) -> None:
    answer = await page.get(PATH)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert await answer.read() == PAGE
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    rules = directives(answer.headers["Content-Security-Policy"])
    assert rules["default-src"] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert rules[name] == ["'none'"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_the_policy_names_the_hashes_of_the_only_script_and_the_only_style() -> None:
    rules = directives(headers(PAGE)["Content-Security-Policy"])
    for tag, texts in Elements(PAGE).raw.items():
        digest = b64encode(hashlib.sha256("".join(texts).encode()).digest()).decode()
        assert rules[f"{tag}-src"] == [f"'sha256-{digest}'"]


async def test_who_has_the_page_is_told_that_it_is_still_the_same(page: Client) -> None:
    first = await page.get(PATH)
    assert first.headers["Cache-Control"] == "no-cache"
    again = await page.get(PATH, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    assert (await page.get(PATH, headers={"If-None-Match": '"another"'})).status == 200


async def test_its_head_alone_and_no_other_method(page: Client) -> None:
    head = await page.head(PATH)
    assert (head.status, await head.read()) == (200, b"")
    assert "ETag" in head.headers
    assert (await page.post(PATH)).status == 405


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for tag, attributes in Elements(PAGE).tags:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    addresses = set(re.findall(rb"\w+://[^'\s]+", PAGE))
    assert addresses == {b"http://www.w3.org/2000/svg"}  # the name of SVG, fetched by nobody


def test_the_page_never_makes_html_of_text() -> None:
    sinks = rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function"
    assert re.findall(sinks, PAGE) == []


def test_every_input_of_the_page_has_a_label() -> None:
    tags = Elements(PAGE).tags
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    inputs = [attributes["id"] for tag, attributes in tags if tag == "input"]
    assert len(inputs) == 3
    assert set(inputs) - labelled == {"keep"}  # that one stands in its label


@pytest.mark.parametrize(
    "page", [b"", b"<style></style>", b"<style></style>" + b"<script></script>" * 2]
)
def test_a_page_that_no_policy_fits_is_refused(page: bytes) -> None:
    with pytest.raises(ValueError, match=r"the page has [02] elements"):
        headers(page)


def test_a_wheel_holds_the_page() -> None:
    """Hatchling packs every file of a package that neither the build nor git's rules leave out."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"] == {"packages": ["gateway", "sse"]}
    left_out = (ROOT / ".gitignore").read_text().split()
    assert not [rule for rule in left_out if rule.endswith("html") or "control" in rule]
