"""Ids that nobody can guess: workflow code makes none, as its chance follows from the run's id."""

from __future__ import annotations

import uuid

from temporalio import activity


@activity.defn(name="new_session_id")
async def new_session_id() -> str:
    """A UUIDv4 from the system's randomness."""
    return str(uuid.uuid4())
