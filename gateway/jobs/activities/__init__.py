"""Activities: what jobs do outside, each for itself repeatable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.jobs.activities.breakers import Breakers
from gateway.jobs.activities.callbacks import Callbacks
from gateway.jobs.activities.calls import Calls
from gateway.jobs.activities.parts import Parts
from gateway.jobs.activities.publishing import Publishing
from gateway.jobs.activities.questions import Asking
from gateway.jobs.activities.sessions import new_session_id


def activities(parts: Parts) -> list[Callable[..., Any]]:
    """All activities, to be registered with a worker."""
    publishing = Publishing(parts.publisher, parts.metrics, parts.log)
    return [
        *Calls(parts.http, publishing, parts.log).all(),
        *publishing.all(),
        *Callbacks(parts.callbacks, parts.log).all(),
        *Asking(parts.http).all(),
        *Breakers(parts.client).all(),
        new_session_id,
    ]
