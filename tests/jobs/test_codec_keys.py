"""Which keys payloads name that are not there: said once, and shown for as long as jobs ask."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Payload

from gateway.jobs.codec import LACKING_SECONDS, Ciphers, JobCodec, PayloadError
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)


def keys(pair: tuple[str, bytes]) -> PayloadKeys:
    return PayloadKeys(Settings(payload_keys=(pair,)))


async def encoded_under(pair: tuple[str, bytes]) -> Payload:
    (encoded,) = await JobCodec(Ciphers(keys(pair)), None).encode([Payload(data=b"x")])
    return encoded


async def test_a_key_that_is_gone_is_named() -> None:
    encoded = await encoded_under(OLD)
    codec = JobCodec(Ciphers(keys(NEW)), None)
    assert codec.lacking == frozenset()
    with capture_logs() as lines:
        for _ in range(2):
            with pytest.raises(PayloadError, match="there is no payload key 'old'"):
                await codec.decode([encoded])
    (line,) = lines
    assert line["event"] == "payload_key_missing"
    assert "no payload key 'old'" in line["reason"]
    assert codec.lacking == frozenset(("old",))


async def test_a_key_that_nobody_asks_for_any_more_lacks_no_more() -> None:
    now = 100.0
    encoded = await encoded_under(OLD)
    codec = JobCodec(Ciphers(keys(NEW), lambda: now), None)
    with capture_logs() as lines:
        for asks_again in (LACKING_SECONDS / 2, LACKING_SECONDS - 1, LACKING_SECONDS):
            with pytest.raises(PayloadError):
                await codec.decode([encoded])
            assert codec.lacking == frozenset(("old",))
            now += asks_again
    assert codec.lacking == frozenset()
    assert len(lines) == 1


async def test_ids_of_keys_from_outside_are_kept_short_and_few() -> None:
    codec = JobCodec(Ciphers(keys(NEW)), None)
    encoded = await encoded_under(OLD)
    with capture_logs() as lines:
        for number in range(100):
            encoded.metadata["encryption-key-id"] = f"{number:03}{'x' * 10_000}".encode()
            with pytest.raises(PayloadError):
                await codec.decode([encoded])
    assert len(codec.lacking) == len(lines) == 64
    assert {len(each) for each in codec.lacking} == {64}
