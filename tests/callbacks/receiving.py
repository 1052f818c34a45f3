"""How a receiver checks a callback, written from the text of Standard Webhooks 1.0.0 ("Verifying
signatures"), on its own: nothing here comes from the code that signs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

TOLERANCE_SECONDS = 300
BLOCK_BYTES = 64  # of SHA-256 (RFC 2104 §2)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC (RFC 2104 §2) spelled out."""
    if len(key) > BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    key = key.ljust(BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the signatures is that of `secret` (`whsec_…`) and the time is near."""
    named = {name.lower(): value for name, value in headers.items()}
    message_id, stamp = named["webhook-id"], named["webhook-timestamp"]
    if not stamp.isdigit() or abs(now - int(stamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = hmac_sha256(key, f"{message_id}.{stamp}.".encode() + body)
    for word in named["webhook-signature"].split(" "):
        version, _, encoded = word.partition(",")
        if version == "v1" and base64.b64decode(encoded) == wanted:
            return True
    return False
