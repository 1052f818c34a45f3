"""The keys that belong to jobs: what is kept about them is encrypted, and what is said about them
signed, with keys derived from these.

They come from `PAYLOAD_KEYS` (several for rotation, the first is the current one) or, where the
gateway runs Temporal itself, from a file in `STATE_DIR`. The keys themselves encrypt and sign
nothing: every use has its own, derived with a label (RFC 5869 §2.3, one block; they are 32 random
bytes, so nothing has to be extracted first). No use of them is here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.policy.kept_secret import kept_secret
from gateway.settings import Settings, SettingsError
from gateway.settings_jobs import EMBEDDED

KEY_FILE: Final = "payload.key"
_TOKEN_LABEL: Final = b"service token"


class PayloadKeys:
    """Keys by id. `current` is the id of the one that new things are made with, `by_id` are all."""

    __slots__ = ("by_id", "current")

    current: str
    by_id: Mapping[str, bytes]

    def __init__(self, settings: Settings) -> None:
        """Reads, and perhaps makes, the file where Temporal is embedded. Raises SettingsError when
        that can't be done, and where there are no keys at all (`has_keys` tells before).
        """
        keys = dict(settings.payload_keys)
        if is_embedded(settings):
            file = settings.state_dir / KEY_FILE
            # With PAYLOAD_KEYS nothing is made, but histories from before can still be read.
            if not keys or file.exists():
                kept = bytes.fromhex(kept_secret(file, "PAYLOAD_KEYS"))
                keys.setdefault(f"kept-{hashlib.sha256(kept).hexdigest()[:8]}", kept)
        if not keys:
            raise SettingsError(
                "settings: PAYLOAD_KEYS is not set, expected the keys that jobs are encrypted with"
            )
        self.by_id = MappingProxyType(keys)
        self.current = next(iter(keys))

    def __repr__(self) -> str:
        return f"<PayloadKeys {', '.join(self.by_id)}>"

    def derive(self, purpose: bytes) -> dict[str, bytes]:
        """A key of 32 bytes for this purpose alone, by the ids of all keys, the current one first.

        The same in every process that has the same keys.
        """
        label = b"gateway " + purpose + b"\x01"
        return {name: hmac.digest(key, label, "sha256") for name, key in self.by_id.items()}


def is_embedded(settings: Settings) -> bool:
    """Whether Temporal and its worker are children of the gateway, on one machine."""
    return settings.embedded or settings.temporal_address == EMBEDDED


def has_keys(settings: Settings) -> bool:
    """Whether `PayloadKeys` will have any: without, jobs are off."""
    return is_embedded(settings) or bool(settings.payload_keys)


def service_token(settings: Settings, keys: PayloadKeys) -> str | None:
    """What a worker shows the gateway: `SERVICE_TOKEN`; embedded without it: one that both derive
    from the keys of `STATE_DIR`, so that it stands in no environment. None: there is none.
    """
    if settings.service_token is not None or not is_embedded(settings):
        return settings.service_token
    return keys.derive(_TOKEN_LABEL)[keys.current].hex()
