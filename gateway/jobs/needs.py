"""What must be set for jobs, and for a worker of them. Known before anything of it is loaded, so
that who forgot a setting is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.policy.payload_keys import PayloadKeys, has_keys, service_token
from gateway.settings import Settings, SettingsError
from gateway.settings_jobs import EMBEDDED


@dataclass(frozen=True, slots=True)
class Needed:
    """What a worker can't do without, as it was set."""

    address: str
    gateway_url: str
    token: str = field(repr=False)
    keys: PayloadKeys


def missing_for_jobs(settings: Settings) -> str | None:
    """The setting without which there are no jobs; None: there are."""
    if settings.temporal_address is None:
        return "TEMPORAL_ADDRESS"
    return None if has_keys(settings) else "PAYLOAD_KEYS"


def queues_of(settings: Settings) -> tuple[str, ...]:
    """The task queues that jobs of these settings go to."""
    own = (each.task_queue for each in settings.workflows)
    return tuple(dict.fromkeys((settings.temporal_task_queue, *filter(None, own))))


def needed(settings: Settings) -> Needed:
    """What must be set for a worker; raises SettingsError, one line, where it is not."""
    if settings.temporal_address in (None, EMBEDDED):
        raise SettingsError(
            "settings: TEMPORAL_ADDRESS is "
            f"{settings.temporal_address or 'not set'}, expected host:port of Temporal (with "
            "embedded the gateway starts its worker itself)"
        )
    keys = PayloadKeys(settings)
    token = service_token(settings, keys)
    if token is None:
        raise SettingsError(
            "settings: SERVICE_TOKEN is not set, expected the one that the gateway has, or an API "
            "key or token with the scope internal"
        )
    if settings.gateway_url is None:
        raise SettingsError(
            "settings: GATEWAY_URL is not set, expected the address of the gateway, such as "
            "http://127.0.0.1:8081"
        )
    return Needed(str(settings.temporal_address), settings.gateway_url, token, keys)
