"""The live connections, for `/admin/connections`: how many of each kind, and some one by one.

A request is told as its access record would be if it ended now. Not here: ending a connection.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.control.admin_desk import Figures
from gateway.edge.downstream import ClientConnection
from gateway.edge.exchange import Exchange
from gateway.edge.record import record_of
from gateway.edge.server import EdgeServer
from gateway.edge.streaming import DoorStream
from gateway.edge.tunnel import Tunnel

# 25,000 connections are looked at in so many turns of the loop that each takes about a millisecond.
A_TURN: Final = 2000
KINDS: Final = ("request", "stream", "tunnel", "idle", "other")

_OF_RECORD: Final = (
    "request_id", "client_ip", "user_id", "tenant", "method", "path", "route", "service",
    "endpoint", "duration_ms", "bytes_in", "bytes_out", "user_agent", "ai_agent",
)  # fmt: skip


async def live_connections(server: EdgeServer, most: int) -> Figures:
    """`total`, the number of each kind, and `connections`: `most` of them, idle ones last.

    Kinds: `request` under way, event `stream`, `tunnel` after 101, `idle`, and `other`: in the
    middle of a request's head, or closing.
    """
    counts = dict.fromkeys(KINDS, 0)
    shown: list[Figures] = []
    idle: list[Figures] = []
    for tunnel in list(server.tunnels):
        counts["tunnel"] += 1
        owner = tunnel.owner if isinstance(tunnel, Tunnel) else None
        if isinstance(owner, Exchange) and len(shown) < most:
            shown.append(_of_exchange("tunnel", owner))
    connections = server.connections
    for number, connection in enumerate(connections, 1):
        if number % A_TURN == 0:
            await asyncio.sleep(0)
        if isinstance(connection, DoorStream):
            counts["stream"] += 1
            if len(shown) < most:
                shown.append(_of_stream(connection))
        elif isinstance(connection, ClientConnection):
            exchange = connection.exchange
            if exchange is not None:
                counts["request"] += 1
                if len(shown) < most:
                    shown.append(_of_exchange("request", exchange))
            elif connection.idle:
                counts["idle"] += 1
                if len(idle) < most:
                    idle.append({"kind": "idle", "client_ip": connection.peer.address})
            else:
                counts["other"] += 1
    # A connection that a tunnel has is the server's still.
    counts["other"] = max(0, counts["other"] - counts["tunnel"])
    return {"total": len(connections), "kinds": counts, "connections": (shown + idle)[:most]}


def _of_exchange(kind: str, exchange: Exchange) -> Figures:
    record = record_of(exchange)
    return {"kind": kind} | {name: record[name] for name in _OF_RECORD}


def _of_stream(stream: DoorStream) -> Figures:
    channel, peer = stream.channel, stream.transport.get_extra_info("peername")
    return {
        "kind": "stream",
        "client_ip": peer[0] if peer else None,
        "user_id": stream.user,
        "client_id": None if channel is None else channel.client_id,
        "events_sent": stream.events_sent,
        "bytes_out": stream.bytes_sent,
    }
