"""The gateway as everyone writes it: an aiohttp handler, one ClientSession, aiohttp's own log.

No request id, no rate limit: it is let off with less. Usage: python naive.py PORT BACKEND_PORT
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

BACKEND = web.AppKey("backend", str)
SESSION = web.AppKey("session", ClientSession)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}


async def proxy(request: web.Request) -> web.Response:
    """Sends the request on and the answer back."""
    session = request.app[SESSION]
    headers = {
        name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP
    }
    url = f"{request.app[BACKEND]}/{request.match_info['path']}"
    async with session.request(
        request.method, url, headers=headers, params=request.query, data=await request.read()
    ) as answer:
        body = await answer.read()
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP
        }
        kept.pop("Content-Length", None)
        return web.Response(status=answer.status, body=body, headers=kept)


async def session_of(app: web.Application) -> AsyncIterator[None]:
    """One session for the life of the application."""
    async with ClientSession() as session:
        app[SESSION] = session
        yield


def main() -> None:
    """Runs it."""
    logging.basicConfig(level=logging.INFO)
    app = web.Application(client_max_size=16 << 20)
    app[BACKEND] = f"http://127.0.0.1:{sys.argv[2]}"
    app.cleanup_ctx.append(session_of)
    app.router.add_route("*", "/api/v1/bench/{path:.*}", proxy)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
