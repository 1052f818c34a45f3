"""The demo: a small service of its own to try the gateway on when no other is configured.

An ordinary aiohttp application on a free port of the loopback; the gateway reaches it like any
service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import WSMsgType, web

SLOWEST_SECONDS = 30.0
EVENT_INTERVAL_SECONDS = 1.0
# Echoed bodies are held whole: what a demo needs, and no more.
ECHO_BODY_BYTES = 1 << 20

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Gateway demo</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #f3f3f3; color: #222; padding: .6rem; height: 9rem; overflow: auto; }
</style>
<h1>Gateway demo</h1>
<p>This page, the events and the WebSocket below all come through the gateway.
See also <a href="json">JSON</a>, <a href="slow?seconds=2">a slow answer</a>,
<a href="/health">the health of the gateway</a> and <a href="/metrics">its metrics</a>.</p>
<h2>Events</h2><pre id="events"></pre>
<h2>WebSocket echo</h2>
<form id="form"><input id="text" value="hello" aria-label="text to send">
<button>Send</button></form> <pre id="echo"></pre>
<script>
const show = (id, line) => {
  const box = document.getElementById(id);
  box.append(line + "\\n");
  box.scrollTop = box.scrollHeight;
};
const events = new EventSource("events");
events.addEventListener("tick", (event) =>
  show("events", event.lastEventId + " " + event.data));
events.onerror = () => show("events", "interrupted, trying again");
const socket = new WebSocket(new URL("ws", location.href).href.replace(/^http/, "ws"));
socket.onmessage = (message) => show("echo", message.data);
socket.onclose = () => show("echo", "closed");
document.getElementById("form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(document.getElementById("text").value);
};
</script> </html>
"""

Wait = Callable[[float], Awaitable[None]]


class Demo:
    """The running demo: its address, and its end."""

    def __init__(self, wait: Wait = asyncio.sleep) -> None:
        """`wait` passes the time between events and before a slow answer."""
        self._wait = wait
        self._ending = asyncio.Event()
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        self.url = ""

    def __repr__(self) -> str:
        return f"<Demo {self.url or 'not started'} ending={self._ending.is_set()}>"

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1; `url` then says where."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def end_streams(self) -> None:
        """End event streams and WebSockets, which would otherwise never end by themselves."""
        self._ending.set()

    async def close(self) -> None:
        """Stop listening and end what is under way."""
        self.end_streams()
        await self._runner.cleanup()

    def invitation(self, gateway_url: str) -> str:
        """What a person can try, given the gateway's address."""
        at = f"{gateway_url}/api/v1/demo"
        return (
            f"\n  The gateway runs with a demo service. Open {at}/ or try:\n\n"
            f"    curl -i {at}/json\n"
            f"    curl -d 'hello' '{at}/echo?a=1'\n"
            f"    curl -N {at}/events\n\n"
            "  ^C stops it. README.md says how to put it in front of your services.\n"
        )

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=ECHO_BODY_BYTES)
        app.router.add_get("/", self._page)
        app.router.add_get("/json", self._json)
        app.router.add_route("*", "/echo", self._echo)
        app.router.add_get("/slow", self._slow)
        app.router.add_get("/events", self._events)
        app.router.add_get("/ws", self._websocket)
        return app

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=_PAGE, content_type="text/html")

    async def _json(self, request: web.Request) -> web.Response:
        return web.json_response({"service": "demo", "message": "hello through the gateway"})

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": [[name, value] for name, value in request.headers.items()],
                "body": body.decode("utf-8", "replace"),
            }
        )

    async def _slow(self, request: web.Request) -> web.Response:
        try:
            seconds = min(max(float(request.query.get("seconds", "1")), 0.0), SLOWEST_SECONDS)
        except ValueError:
            raise web.HTTPBadRequest(text="seconds is not a number\n") from None
        await self._wait(seconds)
        return web.json_response({"waited_seconds": seconds})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """A tick a second, numbered; `Last-Event-ID` goes on behind that number."""
        last = request.headers.get("Last-Event-ID", "")
        number = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        try:
            while not self._ending.is_set():
                number += 1
                data = json.dumps({"number": number})
                await response.write(f"id: {number}\nevent: tick\ndata: {data}\n\n".encode())
                await self._pause()
        except ConnectionResetError:
            pass  # the client left
        return response

    async def _pause(self) -> None:
        """The time between two events, or less when the demo ends."""
        waiting = asyncio.ensure_future(self._wait(EVENT_INTERVAL_SECONDS))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            ending.cancel()

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        closing = asyncio.ensure_future(self._close_at_end(socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        finally:
            closing.cancel()
        return socket

    async def _close_at_end(self, socket: web.WebSocketResponse) -> None:
        await self._ending.wait()
        await socket.close(code=1001, message=b"the demo ends")


async def start_demo() -> Demo:
    """A demo that listens."""
    demo = Demo()
    await demo.start()
    return demo
