"""The one place that connects to Temporal, for gateways and workers: address, TLS (RFC 8446) with a
client's certificate or not, API key, patience, and the converter without which no job is readable.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio.client import Client, HeaderCodecBehavior
from temporalio.converter import DataConverter
from temporalio.runtime import Runtime
from temporalio.service import KeepAliveConfig, RetryConfig, TLSConfig

from gateway.policy.payload_keys import is_embedded
from gateway.settings import Settings, SettingsError

# One call waits for so long at most, tries and all: a caller of the gateway is told 503 then, and
# asks again.
PATIENCE_SECONDS: Final = 5.0
# A worker that can't tell that something is done has it done again, after its time-out.
WORKER_PATIENCE_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE_MS: Final = 50
_LONGEST_PAUSE_MS: Final = 1000
# A peer that went away without a word is found within 25 s, before a load balancer's 60 s of quiet.
_SIGN_OF_LIFE_MS: Final = 15_000
_SIGN_WAITED_MS: Final = 10_000


async def connect(
    address: str,
    settings: Settings,
    converter: DataConverter,
    *,
    role: str,
    patience_seconds: float = PATIENCE_SECONDS,
    runtime: Runtime | None = None,
    lazy: bool = False,
) -> Client:
    """A client for the namespace of the settings, at `address` (host:port; an embedded server's is
    not in the settings).

    `role` stands in histories beside host and process. `lazy`: connects with the first call; not
    for workers. Raises SettingsError for files that can't be used, RuntimeError when Temporal is
    not there or refuses (see `why`).
    """
    return await Client.connect(
        address,
        namespace=settings.temporal_namespace,
        api_key=None if is_embedded(settings) else settings.temporal_api_key,
        tls=tls_of(settings),
        data_converter=converter,
        header_codec_behavior=HeaderCodecBehavior.CODEC,
        retry_config=RetryConfig(
            initial_interval_millis=_FIRST_PAUSE_MS,
            max_interval_millis=_LONGEST_PAUSE_MS,
            max_elapsed_time_millis=round(patience_seconds * 1000),
            max_retries=0,  # the time is the bound
        ),
        keep_alive_config=KeepAliveConfig(
            interval_millis=_SIGN_OF_LIFE_MS, timeout_millis=_SIGN_WAITED_MS
        ),
        connect_timeout=timedelta(seconds=CONNECT_SECONDS),
        identity=f"{role}-{os.getpid()}@{socket.gethostname()}",
        runtime=runtime,
        lazy=lazy,
    )


def tls_of(settings: Settings) -> TLSConfig | bool:
    """How the connection is protected; False: not at all. A certificate, an authority, a name or an
    API key (which nobody else may read on the way) ask for TLS by themselves; all of them are for
    another server than an embedded one, which speaks plainly, on loopback. Reads files; raises
    SettingsError for those that can't be read.
    """
    if is_embedded(settings):
        return False
    ca, cert, key = (
        settings.temporal_tls_ca,
        settings.temporal_tls_cert,
        settings.temporal_tls_key,
    )
    name = settings.temporal_tls_server_name
    wanted = (settings.temporal_tls, settings.temporal_api_key, ca, cert, key, name)
    if not any(wanted):
        return False
    return TLSConfig(
        server_root_ca_cert=_pem(ca, "TEMPORAL_TLS_CA"),
        client_cert=_pem(cert, "TEMPORAL_TLS_CERT"),
        client_private_key=_pem(key, "TEMPORAL_TLS_KEY"),
        domain=name,
    )


def why(error: BaseException) -> str:
    """What an error of a connection says, in one short line."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _pem(file: Path | None, setting: str) -> bytes | None:
    if file is None:
        return None
    try:
        pem = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"settings: {setting} {file} cannot be read ({error.strerror}), expected a PEM file"
        ) from None
    if b"-----BEGIN " not in pem:
        raise SettingsError(f"settings: {setting} {file} is no PEM file, expected one")
    return pem
