"""Paths for the gateway's own workers, as far as the control application has to know them.

They are answered at the door (edge/job_admission.py), which hides them from everyone without scope
`internal`; what comes here is another method, and gets its 405.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

PATHS: Final = ("/internal/jobs/admission",)


def routes() -> list[web.RouteDef]:
    """All of them."""
    return [web.post(path, _at_the_door) for path in PATHS]


async def _at_the_door(_request: web.Request) -> web.Response:  # pragma: no cover
    """Never comes here."""
    raise web.HTTPInternalServerError
