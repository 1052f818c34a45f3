"""One value of a setting: where it was written, and the readers that turn it into what the gateway
uses.

Pure: text or a TOML value in, a Python value out, or a `SettingsError` whose text is one clear
line. Which settings exist is in `settings`; files are read in `settings_file`; service URLs in
`settings_services`.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

Network = IPv4Network | IPv6Network

ENVIRONMENT = "environment"


class SettingsError(Exception):
    """A setting is wrong; the text is one line: where, what is wrong, what was expected."""


@dataclass(frozen=True, slots=True)
class Value:
    """A raw value, the name it was written under, and where: `environment` or `file:line`."""

    name: str
    raw: object
    where: str

    def error(self, problem: str, expected: str) -> SettingsError:
        """A SettingsError that points at this value."""
        return SettingsError(f"{self.where}: {self.name} {problem}, expected {expected}")

    def wrong(self, expected: str) -> SettingsError:
        """A SettingsError that shows the value as it was written."""
        return self.error(f"is {self.raw!r}", expected)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`quota` requests in `window_seconds`."""

    quota: int
    window_seconds: int


Reader = Callable[[Value], object]

_WINDOW_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
_SIZE_FACTORS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"([0-9]{1,15})\s*([kmg]ib)?", re.IGNORECASE)
_RATE = re.compile(r"([0-9]{1,9})(?:/(second|minute|hour))?", re.IGNORECASE)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ORIGIN = re.compile(
    r"https?://(?:[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
_LOOPBACK = r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])"
_KEY_SET_URL = re.compile(
    rf"(?:https://[^\s/?#@]+|http://{_LOOPBACK}(?::[0-9]{{1,5}})?)(?:[/?][^\s#]*)?"
)
_LEVELS = ("debug", "info", "warning", "error", "critical")
_WEEK_SECONDS = 7 * 86400
_WEBHOOK_EXPECTED = "whsec_ and base64 of 24 to 64 bytes, several with commas"


def words(value: Value) -> tuple[str, ...]:
    """A comma-separated text or a list of texts, without blanks and empty parts."""
    if isinstance(value.raw, str):
        parts = value.raw.split(",")
    elif isinstance(value.raw, list) and all(isinstance(part, str) for part in value.raw):
        parts = value.raw
    else:
        raise value.wrong("a text with commas or a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


def text(value: Value) -> str:
    """Any text that is not empty."""
    if not isinstance(value.raw, str) or not value.raw.strip():
        raise value.wrong("a text")
    return value.raw.strip()


def host(value: Value) -> str:
    """An address to listen on or a name of this machine; IPv6 with or without brackets."""
    name = text(value)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        return str(ip_address(name))
    except ValueError:
        if _HOST.fullmatch(name):
            return name
    raise value.wrong("an address or a name of this machine")


def whole(minimum: int, maximum: int) -> Callable[[Value], int]:
    """A reader of whole numbers from `minimum` to `maximum`."""
    expected = f"a whole number from {minimum} to {maximum}"

    def read(value: Value) -> int:
        raw = value.raw
        if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,15}", raw.strip()):
            raw = int(raw)
        if not isinstance(raw, int) or isinstance(raw, bool) or not minimum <= raw <= maximum:
            raise value.wrong(expected)
        return raw

    return read


def seconds(
    *, zero: bool = False, most: float = _WEEK_SECONDS, most_text: str = "a week"
) -> Callable[[Value], float]:
    """A reader of durations in seconds, fractions allowed, at most `most`, which is `most_text`."""
    expected = "seconds, at least 0" if zero else "seconds, more than 0"

    def read(value: Value) -> float:
        raw = value.raw
        try:
            if isinstance(raw, bool) or not isinstance(raw, str | int | float):
                raise ValueError
            number = float(raw)
        except ValueError:
            raise value.wrong(expected) from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero) or number > most:
            raise value.wrong(f"{expected} and at most {most_text}")
        return number

    return read


def size_bytes(value: Value) -> int:
    """Bytes: a whole number, or one with KiB, MiB or GiB."""
    match = _SIZE.fullmatch(str(value.raw).strip()) if not isinstance(value.raw, bool) else None
    count = int(match[1]) * _SIZE_FACTORS[(match[2] or "").lower()] if match else 0
    if count < 1:
        raise value.wrong("bytes, such as 1048576 or 16MiB")
    return count


def switch(value: Value) -> bool:
    """true or false."""
    raw = value.raw.strip().lower() if isinstance(value.raw, str) else value.raw
    if raw is True or raw in ("true", "on", "yes", "1"):
        return True
    if raw is False or raw in ("false", "off", "no", "0"):
        return False
    raise value.wrong("true or false")


def choice(*allowed: str) -> Callable[[Value], str]:
    """A reader of one word out of `allowed`; true and false stand for on and off."""

    def read(value: Value) -> str:
        raw = value.raw
        if isinstance(raw, bool):
            raw = "on" if raw else "off"
        word = str(raw).strip().lower()
        if word not in allowed:
            raise value.wrong(" or ".join(allowed))
        return word

    return read


def rate_limit(value: Value) -> RateLimit | None:
    """`N` (a minute), `N/second`, `N/minute`, `N/hour`, or `off` for no limit."""
    raw = str(value.raw).strip().lower()
    if raw == "off" or value.raw is False:
        return None
    match = _RATE.fullmatch(raw)
    if match is None or int(match[1]) < 1:
        raise value.wrong("N, N/second, N/minute, N/hour or off")
    return RateLimit(int(match[1]), _WINDOW_SECONDS[match[2] or "minute"])


def share(value: Value) -> float:
    """A part of a whole, from 0 to 1."""
    raw = value.raw
    try:
        if isinstance(raw, bool) or not isinstance(raw, str | int | float):
            raise ValueError
        number = float(raw)
    except ValueError:
        raise value.wrong("a share from 0 to 1") from None
    if not 0 <= number <= 1:
        raise value.wrong("a share from 0 to 1")
    return number


def origins(value: Value) -> tuple[str, ...]:
    """Origins as browsers send them (RFC 6454 §6.2): scheme, host, a port that is not the default.

    `*` stands alone.
    """
    listed = words(value)
    for origin in listed:
        usual = ":80" if origin.startswith("http:") else ":443"
        exact = _ORIGIN.fullmatch(origin) and not origin.endswith(usual)
        if not exact and listed != ("*",):
            raise value.error(
                f"names {origin!r}",
                "exact origins, such as https://app.example or http://localhost:5173",
            )
    return listed


def tokens(value: Value) -> tuple[str, ...]:
    """Names of methods or header fields (RFC 9110 §5.6.2: token)."""
    listed = words(value)
    if not listed or not all(_TOKEN.fullmatch(word) and word != "*" for word in listed):
        raise value.wrong("names with commas between")
    return listed


def jwks_url(value: Value) -> str:
    """An https address; http only on this machine, where nobody can change what is read."""
    url = text(value)
    match = _KEY_SET_URL.fullmatch(url)
    if match is None:
        raise value.error("is no https address", "https://…, or http:// on this machine")
    return url


def networks(value: Value) -> tuple[Network, ...]:
    """Addresses and CIDRs; bits behind the prefix are ignored."""
    try:
        return tuple(ip_network(part, strict=False) for part in words(value))
    except ValueError:
        raise value.wrong("addresses or CIDRs, such as 10.0.0.0/8") from None


def path(value: Value) -> Path:
    """A path of a file or directory that need not exist."""
    return Path(text(value)).expanduser()


def readable(value: Value) -> Path:
    """A file that can be read now, relative to the working directory."""
    file = path(value)
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise value.error(f"is {file} ({reason})", "a readable file") from None


def log_level(value: Value) -> str:
    """A level, and `logger=level` for single loggers: `info,gateway.edge=debug`."""
    for part in words(value):
        if part.rpartition("=")[2].strip().lower() not in _LEVELS:
            raise value.wrong(
                "debug, info, warning, error or critical, such as info,gateway.edge=debug"
            )
    return ",".join(words(value)).lower()


def database_url(value: Value) -> str:
    """A PostgreSQL or SQLite address; never shown in an error, since it may hold a password."""
    url = text(value)
    if not url.startswith(("postgresql://", "postgres://", "sqlite:///")):
        raise value.error("has another scheme", "postgresql:// or sqlite:///")
    return url


def secret(value: Value) -> str:
    """A secret: any text that is not empty; never shown in an error."""
    if not isinstance(value.raw, str) or not value.raw.strip():
        raise value.error("is empty or no text", "a text")
    return value.raw.strip()


def webhook_secrets(value: Value) -> tuple[bytes, ...]:
    """Keys as Standard Webhooks writes them (`whsec_` and base64 of 24-64 bytes), newest first."""
    keys = []
    for word in words(value):
        try:
            if not word.startswith("whsec_"):
                raise ValueError
            key = b64decode(word.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise value.error("is no webhook secret", _WEBHOOK_EXPECTED) from None
        if not 24 <= len(key) <= 64:
            raise value.error("is no webhook secret", _WEBHOOK_EXPECTED)
        keys.append(key)
    return tuple(keys)


def pem(value: Value) -> str:
    """A PEM text, or the file that holds one."""
    if isinstance(value.raw, str) and value.raw.strip().startswith("-----BEGIN "):
        return value.raw.strip() + "\n"
    try:
        return readable(value).read_text("ascii")
    except UnicodeDecodeError:
        raise value.error("is no PEM file", "a public key in PEM") from None


def redis_url(value: Value) -> str:
    """A Redis address; never shown in an error, since it may hold a password."""
    url = text(value)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise value.error("has another scheme", "redis://, rediss:// or unix://")
    return url
