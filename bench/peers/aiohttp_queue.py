"""Event streams as everyone writes them in aiohttp: a handler and an `asyncio.Queue` per client.

On uvloop, and let off with less: no replay, no limit, no access log; the event comes ready-made and
is framed once for all. Usage: python aiohttp_queue.py PORT
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import defaultdict, deque

import uvloop
from aiohttp import web

RETAINED = 100
EVENT_HEAD = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class Channel:
    """The queues of one client id's subscribers, and its last events."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[bytes]] = set()
        self.retained: deque[bytes] = deque(maxlen=RETAINED)
        self.numbers = itertools.count(1)


Channels = defaultdict[str, Channel]
CHANNELS = web.AppKey("channels", Channels)


async def subscribe(request: web.Request) -> web.StreamResponse:
    """A stream until the client goes."""
    channel = request.app[CHANNELS][request.match_info["client_id"]]
    queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1000)
    channel.queues.add(queue)
    try:
        response = web.StreamResponse(headers=EVENT_HEAD)
        await response.prepare(request)
        await response.write(b"event: connection.established\ndata: {}\n\n")
        while True:
            await response.write(await queue.get())
    except ConnectionResetError:
        return response
    finally:
        channel.queues.discard(queue)


async def publish(request: web.Request) -> web.Response:
    """The body is the event's data; its type is in a field."""
    channel = request.app[CHANNELS][request.match_info["client_id"]]
    data = await request.read()
    kind = request.headers["X-EventSource-Event"].encode()
    frame = b"id: %d\nevent: %b\ndata: %b\n\n" % (next(channel.numbers), kind, data)
    channel.retained.append(frame)
    for queue in channel.queues:
        queue.put_nowait(frame)
    return web.json_response({"subscribers": len(channel.queues)}, status=202)


async def main(port: int) -> None:
    """Serves until it is ended."""
    app = web.Application()
    app[CHANNELS] = defaultdict(Channel)
    app.router.add_get("/subscribe/{client_id}", subscribe)
    app.router.add_post("/publish/{client_id}", publish)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
