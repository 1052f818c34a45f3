"""What is said of jobs: readers of Temporal's settings, and the tables `[workflows.<type>]`.

Nothing is connected here. What the kinds of jobs are is in `jobs/types`; their names stand here
too, so that a table for one that does not exist is an error with its line.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.settings_values import Reader, SettingsError, Value, seconds, text, words

# This and the longest of their time-outs are as in `jobs/types`; a test compares both.
JOB_NAMES: Final = (
    "api_request_workflow",
    "multi_service_orchestration_workflow",
    "async_request_workflow",
    "error_recovery_workflow",
    "business_process_workflow",
    "tenant_switch_workflow",
)
EMBEDDED: Final = "embedded"
# The longest that any kind may take; one that may less is bounded by that.
MOST_JOB_SECONDS: Final = 180 * 86_400.0
KEY_BYTES: Final = 32  # AES-256
_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_URL: Final = re.compile(r"https?://[^\s/?#@]+")
_KEYS_EXPECTED: Final = "id:base64 of 32 bytes, several with commas, the newest first"


@dataclass(frozen=True, slots=True)
class WorkflowSettings:
    """What a table `[workflows.<name>]` says: the queue of its workers, and the default of its
    execution time-out in seconds. None: as for all.
    """

    name: str
    task_queue: str | None = None
    timeout_seconds: float | None = None


def temporal_address(value: Value) -> str:
    """`embedded`, or host and port of a Temporal frontend."""
    address = text(value)
    if address.lower() == EMBEDDED:
        return EMBEDDED
    if not _ADDRESS.fullmatch(address):
        raise value.wrong("host:port, or embedded")
    return address


def plain_name(value: Value) -> str:
    """Letters, digits and `_`, `.`, `-`: of a namespace or a queue."""
    name = text(value)
    if not _NAME.fullmatch(name):
        raise value.wrong("letters, digits, _ . -")
    return name


def gateway_url(value: Value) -> str:
    """Scheme, host and port of a gateway; without a path."""
    url = text(value).rstrip("/")
    if not _URL.fullmatch(url):
        raise value.error("is no address of a gateway", "http:// or https://, host and port")
    return url


def payload_keys(value: Value) -> tuple[tuple[str, bytes], ...]:
    """Keys with their ids, the first encrypts; never shown in an error."""
    keys: dict[str, bytes] = {}
    for word in words(value):
        name, _, written = word.partition(":")
        try:
            key = b64decode(written, validate=True)
        except ValueError:
            key = b""
        if not _KEY_ID.fullmatch(name) or len(key) != KEY_BYTES:
            raise value.error("is no list of payload keys", _KEYS_EXPECTED)
        if name in keys:
            raise value.error(f"has the id {name} twice", "an id for each key")
        keys[name] = key
    return tuple(keys.items())


_TABLE: Final[Mapping[str, Reader]] = {
    "task_queue": plain_name,
    "timeout_seconds": seconds(most=MOST_JOB_SECONDS, most_text="180 days"),
}


def build_workflows(tables: Mapping[str, Mapping[str, Value]]) -> tuple[WorkflowSettings, ...]:
    """What the tables say; raises SettingsError."""
    found = []
    for name, table in tables.items():
        if name not in JOB_NAMES:
            raise table[""].error("is no kind of job", f"one of {', '.join(JOB_NAMES)}")
        read: dict[str, Any] = {}
        for key, value in table.items():
            if key and key not in _TABLE:
                raise value.error("is unknown", f"one of {', '.join(_TABLE)}")
            if key:
                read[key] = _TABLE[key](value)
        found.append(WorkflowSettings(name, **read))
    return tuple(found)


def check_temporal(
    *, address: str | None, cert: object, key: object, keys: tuple[tuple[str, bytes], ...]
) -> list[str]:
    """What the settings of Temporal allow each other; warnings. Raises SettingsError."""
    if (cert is None) != (key is None):
        raise SettingsError(
            "settings: only one of TEMPORAL_TLS_CERT and TEMPORAL_TLS_KEY is set, "
            "expected both or none"
        )
    if address not in (None, EMBEDDED) and not keys:
        return ["TEMPORAL_ADDRESS is set without PAYLOAD_KEYS: jobs are off, as what they hold "
                "would be readable to everyone at Temporal"]  # fmt: skip
    return []
