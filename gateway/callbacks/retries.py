"""When a delivery is tried again, and when no more. Pure: time and chance come in.

Standard Webhooks ("Deliverability and reliability"): back-off that grows, with jitter; 410 ends it,
`Retry-After` is heard, every other status but 2xx is a failure like any other.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

FIRST_SECONDS = 5.0
FACTOR = 3.0
MOST_SECONDS = 7200.0  # 5 s, 15 s, 45 s, … 1 h, then every 2 h: 19 retries in a day
MOST_SECONDS_FOR_JOB = 60.0
JITTER = 0.25  # of the delay, either way, so that what failed together does not come back together
DAY_SECONDS = 86_400.0
# A receiver may ask for patience, but not for so much that no try is left.
MOST_RETRY_AFTER_SECONDS = 3600.0


def next_try(
    created_at: float,
    failed: int,
    now: float,
    chance: float,
    retry_after_seconds: float | None = None,
) -> float | None:
    """When to try again (Unix seconds) after `failed` failures, this one among them; None: never.

    `chance` is a draw from [0, 1). The last try is when the day is over, so that one that was due
    while nobody was there to make it is still made.
    """
    end = created_at + DAY_SECONDS
    if now >= end:
        return None
    # The exponent is bounded before the power is taken: the delay has reached its most by then.
    delay = min(FIRST_SECONDS * FACTOR ** min(failed - 1, 10), MOST_SECONDS)
    delay *= 1 - JITTER + 2 * JITTER * chance
    if retry_after_seconds is not None:
        delay = max(delay, min(retry_after_seconds, MOST_RETRY_AFTER_SECONDS))
    return min(now + delay, end)


def next_try_for_job(failed: int, now: float, chance: float) -> float:
    """The same for a job that waits: it is tried as long as the decision is kept, and soon, since
    what it waits for is another part of the gateway.
    """
    delay = min(FIRST_SECONDS * FACTOR ** min(failed - 1, 10), MOST_SECONDS_FOR_JOB)
    return now + delay * (1 - JITTER + 2 * JITTER * chance)


def retry_after(text: str | None, now: float) -> float | None:
    """`Retry-After` in seconds from now (RFC 9110 §10.2.3: seconds or a date); None when there is
    none that can be read.
    """
    if text is None:
        return None
    word = text.strip()
    if word.isascii() and word.isdigit():
        return float(word[:10])
    try:
        at = parsedate_to_datetime(word)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
