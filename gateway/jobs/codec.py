"""What a job's history holds, as Temporal keeps it: JSON by orjson, and every payload encrypted
(AES-256-GCM, NIST SP 800-38D), messages and stacks of failures with it.

Payloads above 256 KiB are kept elsewhere (`Payloads`) and referred to: Temporal refuses 2 MiB, and
a history of 50 MiB. Not covered by any codec, hence never personal: ids, type names, search
attributes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import orjson
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    BinaryNullPayloadConverter,
    BinaryPlainPayloadConverter,
    BinaryProtoPayloadConverter,
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    JSONProtoPayloadConverter,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from gateway.jobs.typed import typed
from gateway.policy.payload_keys import PayloadKeys

_log = structlog.get_logger("gateway.jobs")

# Above this (encrypted) a payload is kept elsewhere.
INLINE_BYTES: Final = 256 << 10
# A worker tells Temporal in one message what a job does next, and 4 MiB is the most that a message
# may have: of many payloads at once, the first MiB stays, then only small ones do.
CROWD_BYTES: Final = 1 << 20
SMALL_BYTES: Final = 16 << 10
_CROWD_SECONDS: Final = 1.0
_MOST_CROWDS: Final = 1000
# Far above what the inputs and answers of jobs come to: one more is a bug, not a large job.
MOST_BYTES: Final = 64 << 20

_ENCRYPTED: Final = b"binary/encrypted"
_REFERENCE: Final = b"binary/encrypted-reference"
_KEY_ID: Final = "encryption-key-id"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
# Random nonces under one key: after 2^28 two are alike with a chance of 2^-41 (SP 800-38D §8.3
# allows 2^32), then another salt makes another key. A busy worker gets there in hours.
_MOST_UNDER_A_SALT: Final = 1 << 28
# An operation id: the owner's tag, then a UUID or a hash.
_OPERATION: Final = re.compile(
    r"[0-9a-f]{16}-(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})"
)
_MOST_ID: Final = 256  # of what is kept beside a payload
# A salt is a process that wrote; older ones are derived anew in 2 us.
_MOST_CIPHERS: Final = 1024
# Ids of keys come from outside.
_MOST_LACKING: Final = 64
_MOST_KEY_ID: Final = 64  # characters
# Temporal has a job that waits for its key tried every ten minutes.
LACKING_SECONDS: Final = 1800.0


class PayloadError(Exception):
    """A payload can't be read or kept. The text is part of histories: it holds nothing of them."""


class NoKeyError(PayloadError):
    """None of PAYLOAD_KEYS fits. Said in the log once for each id that payloads name."""


class Payloads(Protocol):
    """Where payloads are kept that are too large for a history."""

    async def put(self, payload_id: str, operation_id: str, data: bytes) -> None:
        """Keep bytes for as long as the history of this job lives; the same id is the same
        content.
        """

    async def get(self, payload_id: str) -> bytes | None:
        """The bytes; None: they are not there."""


class OrjsonPayloadConverter(EncodingPayloadConverter):
    """JSON, read into the types that are hinted at: five times as fast as the SDK's, whose encoding
    it is. What orjson does not know (surrogates alone, integers above 64 bits) the SDK's does.
    """

    def __init__(self) -> None:
        self._slow = JSONPlainPayloadConverter()

    @property
    def encoding(self) -> str:
        """The SDK's name of it."""
        return self._slow.encoding

    def to_payload(self, value: Any) -> Payload | None:
        """Raises TypeError for what is not JSON."""
        try:
            data = orjson.dumps(value)
        except TypeError:
            return self._slow.to_payload(value)
        return Payload(metadata={"encoding": b"json/plain"}, data=data)

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """Raises TypeError and RuntimeError for what does not fit the hint."""
        try:
            value = orjson.loads(payload.data)
        except orjson.JSONDecodeError:
            return self._slow.from_payload(payload, type_hint)
        return value if type_hint is None else typed(type_hint, value)


class JobPayloadConverter(CompositePayloadConverter):
    """The SDK's converters, with orjson for JSON."""

    def __init__(self) -> None:
        super().__init__(
            BinaryNullPayloadConverter(),
            BinaryPlainPayloadConverter(),
            JSONProtoPayloadConverter(),
            BinaryProtoPayloadConverter(),
            OrjsonPayloadConverter(),
        )


class Ciphers:
    """Encrypts under the current key, decrypts under any.

    Each process draws a salt, and encrypts with a key derived from both: the nonces of many
    processes under one key would come to their bound in days.
    """

    def __init__(self, keys: PayloadKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys = keys.derive(b"payload")
        self._names = keys.derive(b"payload name")[keys.current]
        self._current = keys.current
        self._made: OrderedDict[tuple[str, bytes], AESGCM] = OrderedDict()
        self._salt = os.urandom(_SALT_BYTES)
        self._under_salt = 0
        self._lacking: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Ciphers {', '.join(self._keys)}>"

    @property
    def lacking(self) -> frozenset[str]:
        """As `JobCodec.lacking`."""
        since = self._clock() - LACKING_SECONDS
        self._lacking = {name: at for name, at in self._lacking.items() if at > since}
        return frozenset(self._lacking)

    def encrypt(self, data: bytes, about: bytes) -> tuple[str, bytes]:
        """The id of the key, and salt, nonce and ciphertext. `about` must be said again to read
        it.
        """
        if self._under_salt >= _MOST_UNDER_A_SALT:
            self._salt, self._under_salt = os.urandom(_SALT_BYTES), 0
        self._under_salt += 1
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._cipher(self._current, self._salt)
        return self._current, self._salt + nonce + cipher.encrypt(nonce, data, about)

    def decrypt(self, key_id: str, data: bytes, about: bytes) -> bytes:
        """Raises PayloadError for a key that is not there and for what was changed or cut."""
        if key_id not in self._keys:
            key_id = key_id[:_MOST_KEY_ID]
            raise self._lacks(key_id, f"there is no payload key {key_id!r} (PAYLOAD_KEYS)")
        head = _SALT_BYTES + _NONCE_BYTES
        if len(data) < head + _TAG_BYTES:
            raise PayloadError("a payload is too short")
        cipher = self._cipher(key_id, data[:_SALT_BYTES])
        try:
            return cipher.decrypt(data[_SALT_BYTES:head], data[head:], about)
        except InvalidTag:
            text = f"a payload was changed, or payload key {key_id!r} is another one"
            raise self._lacks(key_id, text) from None

    def name(self, operation_id: str, data: bytes) -> str:
        """What this content of a job is kept under: the same at every try and at every replay, and
        nothing that tells the content.
        """
        digest = hmac.new(self._names, operation_id.encode() + b"\0", hashlib.sha256)
        digest.update(data)
        return digest.hexdigest()

    def _lacks(self, key_id: str, text: str) -> NoKeyError:
        is_known = key_id in self.lacking
        if is_known or len(self._lacking) < _MOST_LACKING:
            self._lacking[key_id] = self._clock()
            if not is_known:
                _log.warning("payload_key_missing", reason=f"{text}: the jobs under it wait")
        return NoKeyError(text)

    def _cipher(self, key_id: str, salt: bytes) -> AESGCM:
        made = self._made.get((key_id, salt))
        if made is None:
            made = AESGCM(hmac.digest(self._keys[key_id], salt, "sha256"))
            self._made[key_id, salt] = made
            if len(self._made) > _MOST_CIPHERS:
                self._made.popitem(last=False)
        return made


class Crowds:
    """How much of each job went into its history just now: what belongs to one message can't be
    told, but it is encoded within a moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Crowds {len(self._jobs)}>"

    def takes(self, operation_id: str, size_bytes: int) -> bool:
        """Whether so much more may go into the history; counts it if so."""
        now = self._clock()
        began, used = self._jobs.get(operation_id, (now, 0))
        if now - began >= _CROWD_SECONDS:
            began, used = now, 0
        if used + size_bytes > CROWD_BYTES:
            return False
        self._jobs[operation_id] = began, used + size_bytes
        self._jobs.move_to_end(operation_id)
        if len(self._jobs) > _MOST_CROWDS:
            self._jobs.popitem(last=False)
        return True


class JobCodec(PayloadCodec, WithSerializationContext):
    """Encrypts payloads, and keeps large ones by reference."""

    def __init__(
        self,
        ciphers: Ciphers,
        payloads: Payloads | None,
        operation_id: str = "",
        crowds: Crowds | None = None,
    ) -> None:
        """`payloads` None: large ones stay where they are, as far as Temporal takes them.
        `operation_id`: whose payloads are encoded, where that is known.
        """
        self._ciphers = ciphers
        self._payloads = payloads
        self._operation_id = operation_id
        self._crowds = crowds or Crowds()

    def __repr__(self) -> str:
        return f"<JobCodec {self._ciphers!r} {self._operation_id}>"

    @property
    def lacking(self) -> frozenset[str]:
        """The ids of keys that payloads were found under within the last half hour and that are not
        there, or are others; or the payload was changed, which can't be told from that.
        """
        return self._ciphers.lacking

    def with_context(self, context: SerializationContext) -> JobCodec:
        """The same, for the payloads of one workflow."""
        if isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
            operation_id = operation_of(context.workflow_id or "")
            return JobCodec(self._ciphers, self._payloads, operation_id, self._crowds)
        return self

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises PayloadError for one above 64 MiB; and what keeping raises."""
        return [await self._encoded(each) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Payloads that were never encoded pass: the server makes some itself. Raises PayloadError
        for what can't be read or is gone; and what looking for it raises.
        """
        return [await self._decoded(each) for each in payloads]

    async def _encoded(self, payload: Payload) -> Payload:
        plain = payload.SerializeToString()
        if self._payloads is None or self._stays(len(plain)):
            return self._encrypted(plain, b"")
        if len(plain) > MOST_BYTES:
            raise PayloadError(f"a payload of {len(plain)} bytes is above {MOST_BYTES}")
        name = self._ciphers.name(self._operation_id, plain)
        kept = self._encrypted(plain, name.encode())
        await self._payloads.put(name, self._operation_id, kept.SerializeToString())
        return Payload(metadata={"encoding": _REFERENCE}, data=name.encode())

    def _stays(self, size_bytes: int) -> bool:
        if size_bytes > INLINE_BYTES - _SALT_BYTES - _NONCE_BYTES - _TAG_BYTES:
            return False
        return size_bytes <= SMALL_BYTES or self._crowds.takes(self._operation_id, size_bytes)

    def _encrypted(self, plain: bytes, about: bytes) -> Payload:
        key_id, data = self._ciphers.encrypt(plain, about)
        return Payload(metadata={"encoding": _ENCRYPTED, _KEY_ID: key_id.encode()}, data=data)

    async def _decoded(self, payload: Payload) -> Payload:
        encoding = payload.metadata.get("encoding")
        if encoding == _ENCRYPTED:
            return self._decrypted(payload, b"")
        if encoding != _REFERENCE:
            return payload
        name = payload.data.decode("ascii", "replace")
        data = None if self._payloads is None else await self._payloads.get(name)
        if data is None:
            raise PayloadError(
                f"payload {name[:64]!r} is not in the database: the gateway and its workers must "
                "share one (DATABASE_URL, or the same STATE_DIR)"
            )
        return self._decrypted(Payload.FromString(data), payload.data)

    def _decrypted(self, payload: Payload, about: bytes) -> Payload:
        key_id = payload.metadata.get(_KEY_ID, b"").decode("ascii", "replace")
        return Payload.FromString(self._ciphers.decrypt(key_id, payload.data, about))


def operation_of(workflow_id: str) -> str:
    """The job that a workflow is a part of: parts have ids that begin with the job's, and what they
    hold is read for as long as the job is. Empty: it can't be told.
    """
    begun = _OPERATION.match(workflow_id)
    if begun is not None:
        return begun.group()
    return workflow_id if len(workflow_id) <= _MOST_ID else ""


@dataclass(frozen=True)
class JobDataConverter(DataConverter):
    """The SDK's, with a JobCodec. A job asks for its own some ten times with each payload, and the
    SDK makes all the parts anew for that (40 us: a tenth of a short job's time in its worker).
    Here only the codec knows whose payloads they are; the other parts are shared.
    """

    def with_context(self, context: SerializationContext) -> Self:
        """The same, for the payloads of one workflow."""
        codec = self.payload_codec
        if not isinstance(codec, JobCodec):
            return super().with_context(context)
        made = object.__new__(type(self))
        vars(made).update(vars(self), payload_codec=codec.with_context(context))
        return made


def data_converter(keys: PayloadKeys, payloads: Payloads | None) -> DataConverter:
    """For clients, workers and replays of jobs. Headers are covered where the client is told so
    (`connect` does).
    """
    return JobDataConverter(
        payload_converter_class=JobPayloadConverter,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
        payload_codec=JobCodec(Ciphers(keys), payloads),
    )
