"""The approvals page: one static HTML file, and the rules a browser holds it to.

The page is a client of the API like any other; here is only how it is handed out. Its script and
its style stand in the file itself and run because the policy (CSP Level 3) names their hashes;
nothing else does. Not here: what the page asks (control/questions.py, the event streams).
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

PATH = "/approvals"
_FILE = Path(__file__).with_name("approvals.html")


def routes() -> list[web.RouteDef]:
    """The page, read once. Raises OSError when the file is not there."""
    return [web.get(PATH, _page(_FILE.read_bytes()))]


def headers(page: bytes) -> dict[str, str]:
    """The fields that go with this page. Raises ValueError without one style and one script."""
    return {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # A window that opened it, or that it opened, gets no hold of it.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Kept, but asked for each time: a new gateway shows its new page at once.
        "Cache-Control": "no-cache",
    }


def _page(page: bytes) -> Handler:
    fields = headers(page)
    etag = hashlib.sha256(page).hexdigest()[:32]

    async def show(request: web.Request) -> web.Response:
        """200, or 304 for who has it (RFC 9110 §13.1.2)."""
        asked = request.if_none_match or ()
        if any(known.value in (etag, "*") for known in asked):
            response = web.Response(status=304, headers=fields)
        else:
            response = web.Response(
                body=page, content_type="text/html", charset="utf-8", headers=fields
            )
        response.etag = etag
        return response

    return show


def _policy(page: bytes) -> str:
    """Nothing but its own style and script, and requests to where it came from.

    The icon is an image in a data: address. Trusted types: no text ever becomes HTML, by accident
    neither.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(page, b'script')}",
            f"style-src {_hash(page, b'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(page: bytes, tag: bytes) -> str:
    """The hash source of the page's one element of that name (CSP Level 3 §2.3.1)."""
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the page has {len(found)} elements {tag.decode()}, not one")
    return f"'sha256-{b64encode(hashlib.sha256(found[0]).digest()).decode()}'"
