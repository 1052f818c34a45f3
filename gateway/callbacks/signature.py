"""The signature of a callback, as Standard Webhooks 1.0.0 has it. Pure: keys, time and bytes in,
header fields out.

What is signed is `<id>.<timestamp>.<body>`, with HMAC-SHA256; the field holds one `v1,<base64>` for
each key, so that a receiver that knows the old key or the new one is content while keys change.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence


def signature(keys: Sequence[bytes], message_id: str, timestamp_seconds: int, body: bytes) -> str:
    """The value of `webhook-signature`: the signatures by all `keys`, in their order.

    Raises ValueError for an id with a full stop, which would let bytes move between id, time and
    body under one signature.
    """
    if "." in message_id:
        raise ValueError("a message id holds no full stop")
    content = b"%b.%d.%b" % (message_id.encode(), timestamp_seconds, body)
    return " ".join("v1," + b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)


def signed_fields(
    keys: Sequence[bytes], message_id: str, wall_seconds: float, body: bytes
) -> dict[str, str]:
    """The three header fields of one attempt: the id stays over retries, the time is the
    attempt's.
    """
    timestamp_seconds = int(wall_seconds)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_seconds),
        "webhook-signature": signature(keys, message_id, timestamp_seconds, body),
    }
