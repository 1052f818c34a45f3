"""`gateway key new`: makes an API key, prints it once, and writes down its hash (`API_KEYS`).

What the file means is in gateway.policy.api_keys. Nothing keeps the key itself.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.exits import EXIT_DONE
from gateway.settings import Settings, SettingsError, environment, load

_INTRODUCTION = """\
# API keys of command line tools, a table each; `./start.sh key new` adds one.
# While there is one the gateway is closed to whoever shows no credential; without this file, and
# without keys of tokens, it is open to this machine.
# A hash opens nothing: the key was shown once, to whoever made it.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of `gateway key`."""
    keys = argparse.ArgumentParser(
        prog="gateway key", description="API keys of command line tools.", allow_abbrev=False
    )
    keys.set_defaults(command="key")
    commands = keys.add_subparsers(required=True, metavar="new")
    new = commands.add_parser(
        "new",
        help="make an API key and print it",
        description="Print a new API key, once, and add its hash to the file that API_KEYS names. "
        "A running gateway takes it at its next reload (SIGHUP).",
        allow_abbrev=False,
    )
    new.add_argument(
        "--tier",
        choices=("anonymous", "free", "pro", "enterprise"),
        default="anonymous",
        help="whose limits hold (default: anonymous)",
    )
    new.add_argument(
        "--scope",
        nargs="+",
        action="extend",
        default=[],
        type=_scopes,
        help="such as events:read events:write; also with commas between",
    )
    new.add_argument("--sub", type=_name, metavar="SUBJECT", help="who it is for (default: its id)")
    new.add_argument("--tenant", type=_name, help="the subject's tenant")
    new.add_argument(
        "--client-id",
        nargs="+",
        action="extend",
        default=[],
        type=_name,
        help="whose events it also reads",
    )
    new.add_argument(
        "--expires-in",
        type=_whole_seconds,
        metavar="SECONDS",
        help="how long it is good (default: until it is taken out of the file)",
    )
    new.add_argument("--config", type=Path, metavar="FILE", help="the settings file")
    return keys


def run(options: argparse.Namespace) -> int:
    """Make the key that `parser` was told of. Raises SettingsError when it can't be kept; then
    nothing was changed and no key printed.
    """
    settings = load(environment(), options.config)
    key, key_id = make(settings, options, time.time())
    # To stdout the key alone, so that a script can take it.
    print(key)  # noqa: T201 - the command's answer
    print(  # noqa: T201
        f"gateway: this is shown only now. Its id is {key_id}, its hash is in {settings.api_keys}; "
        "a gateway that runs takes it at SIGHUP",
        file=sys.stderr,
    )
    return EXIT_DONE


def make(settings: Settings, options: argparse.Namespace, wall_seconds: float) -> tuple[str, str]:
    """A new key, kept in the file, and its id. Raises SettingsError; then nothing has changed."""
    # Imported here: help needs none of the libraries of tokens.
    from gateway.policy.api_keys import MAX_KEYS, ApiKeys, digest_of, new_key

    file = settings.api_keys.resolve()  # a link stays one
    key, key_id = new_key()
    members: list[tuple[str, str | None]] = [
        ("hash", _text(digest_of(key.encode()).hex())),
        ("tier", _text(options.tier)),
        ("scopes", _texts(scopes_of(options.scope))),
        ("sub", _text(options.sub)),
        ("tenant", _text(options.tenant)),
        ("client_ids", _texts(options.client_id) if options.client_id else None),
        ("created", _moment(wall_seconds)),
        ("expires", options.expires_in and _moment(wall_seconds + options.expires_in)),
    ]
    table = [f"{name} = {value}" for name, value in members if value is not None]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(file.parent):
            if len(ApiKeys.read(file)) >= MAX_KEYS:  # also: nothing is built on a broken file
                raise SettingsError(f"{file}: full, expected fewer than {MAX_KEYS} keys")
            _replace(file, "\n".join(("", f"[keys.{key_id}]", *table, "")))
    except OSError as error:
        raise SettingsError(
            f"settings: {file} can't be written ({error.strerror}), expected a file for API_KEYS"
        ) from None
    return key, key_id


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """One command at a time, so that of two keys made at once neither is lost."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, added: str) -> None:
    """The file with `added` behind it, in one step: whoever reads it sees it before or after. It
    stays its owner's and is for nobody else.
    """
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - a descriptor
            if file.exists():
                before = file.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
                opened.write(file.read_bytes().rstrip(b"\n") + b"\n")
            else:
                opened.write(_INTRODUCTION.encode())
            opened.write(added.encode())
            opened.flush()
            os.fsync(descriptor)
        draft.replace(file)
    except BaseException:
        draft.unlink()
        raise


def _text(value: str | None) -> str | None:
    """As TOML writes it; JSON's escapes are among TOML's."""
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(json.dumps(value, ensure_ascii=False) for value in values)}]"


def _moment(wall_seconds: float) -> str:
    """An offset date-time of TOML, to the second."""
    return datetime.fromtimestamp(int(wall_seconds), UTC).isoformat().replace("+00:00", "Z")


def scopes_of(texts: Iterable[str]) -> list[str]:
    """The scopes of a command line, however they are parted: by arguments, blanks or commas."""
    return list(dict.fromkeys(" ".join(texts).replace(",", " ").split()))


def _scopes(text: str) -> str:
    from gateway.policy.identity import is_scope

    scopes = scopes_of([text])
    if not scopes or not all(map(is_scope, scopes)):
        raise argparse.ArgumentTypeError("expected scopes, with blanks or commas between")
    return text


def _name(text: str) -> str:
    from gateway.policy.identity import NAME_LENGTH, is_name

    if not is_name(text):
        raise argparse.ArgumentTypeError(f"expected a text of 1 to {NAME_LENGTH} characters")
    return text


def _whole_seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 11 and int(text) > 0):
        raise argparse.ArgumentTypeError("expected whole seconds, more than 0")
    return int(text)
