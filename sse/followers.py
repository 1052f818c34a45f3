"""Followers: those who want a client id's history known here without reading it as a stream.

Where gateways share histories through Redis, one of them hears only of client ids that somebody
wants here. Who is about to open a stream, or waits for a job, follows its client id meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from sse.channels import Channel


class Follower:
    """One who follows, until it is closed: `Hub.follow` makes it. A context manager.

    `known` is done when the history is there, or when it is certain that Redis can't be asked.
    """

    __slots__ = ("_channel", "_unfollow", "known")

    def __init__(self, unfollow: Callable[[Channel, Follower], None], channel: Channel) -> None:
        """Needs a running event loop."""
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unfollow = unfollow
        self._channel: Channel | None = channel

    def __repr__(self) -> str:
        state = "closed" if self._channel is None else "known" if self.known.done() else "waiting"
        return f"<Follower {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self) -> None:
        """The history is known."""
        if not self.known.done():
            self.known.set_result(None)

    def close(self) -> None:
        """Follow no more; twice is once."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self.known.cancel()
            self._unfollow(channel, self)
