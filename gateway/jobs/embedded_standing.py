"""How far an embedded Temporal is, and what people are told. What happens is in `embedded`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """How far it is."""

    WAITING = "waiting"  # for the gateway that has the children, or had
    BUILDING = "building"
    STARTING = "starting"
    UP = "up"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands. `address` is host and port of the server once it has answered; `ui` the URL of
    its pages; `detail` what people should know.
    """

    phase: Phase
    address: str | None = None
    ui: str | None = None
    detail: str = ""

    @property
    def said(self) -> str:
        """Why there are no jobs yet, for people; empty when Temporal is up."""
        if self.phase is Phase.UP:
            return ""
        if self.phase is Phase.FAILED:
            return f"Temporal can't be started: {self.detail}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"Temporal is {self.phase.value}{detail}"
