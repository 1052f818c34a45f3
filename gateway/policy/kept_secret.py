"""Secrets that a gateway makes for itself: each in a file of `STATE_DIR`, made once, for this user
alone.

Not here: what a secret is for. Its readers derive keys from it with a label, so that what is signed
with one is never taken for another's.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from gateway.settings import SettingsError

_WRITTEN: Final = re.compile(r"[0-9a-f]{64}\n").fullmatch


def kept_secret(file: Path, instead: str) -> str:
    """32 random bytes as 64 hex digits and a line feed: what `file` holds, which is made (mode
    0600) where there is none. `instead` is the setting that would do without the file.

    Raises SettingsError when it can't be read or made, or holds something else.
    """
    try:
        try:
            text = file.read_text("ascii")
        except FileNotFoundError:
            _make(file)
            text = file.read_text("ascii")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise SettingsError(
            f"settings: {file} can't be read or made ({error.strerror}), "
            f"expected a STATE_DIR to write to, or {instead}"
        ) from None
    if not _WRITTEN(text):
        raise SettingsError(
            f"settings: {file} holds no key of this gateway, expected one (deleting the file makes "
            f"a new one), or {instead}"
        )
    return text


def _make(file: Path) -> None:
    """Make the file whole or not at all: a link to a finished file never replaces another's, so of
    several processes that start at once one wins and all read the same.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as opened:  # noqa: PTH123 - a descriptor
            opened.write(f"{secrets.token_hex(32)}\n")
            opened.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
