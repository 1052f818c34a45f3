"""bench/RESULTS.md: one section a benchmark, replaced when it is run again. Measures nothing."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from bench import machine

RESULTS = Path(__file__).with_name("RESULTS.md")

PREAMBLE = """\
# What was measured

Written by `./start.sh bench`: each section is the last run of that benchmark on the machine it
names, as measured, also where a goal was missed. CPU figures are user plus system time of all
processes and threads of the proxy, pinned to one core, over the requests completed in that time;
client and backend share another core. Rounds of the peers are interleaved; a figure is the median
of the rounds with the lowest and highest behind it.
"""


def replace_section(document: str, name: str, body: str) -> str:
    """The document with the section `## name` replaced, or added at the end; the rest untouched."""
    section = f"## {name}\n\n{body.strip()}\n"
    found = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", document, re.DOTALL | re.MULTILINE)
    if found is None:
        return f"{document.rstrip()}\n\n{section}"
    rest = document[found.end() :]
    return document[: found.start()] + section + ("\n" + rest if rest else "")


def write(name: str, body: str, *, peers: tuple[str, ...] = (), path: Path = RESULTS) -> None:
    """Writes the section of one benchmark with the date, the machine and the versions."""
    document = path.read_text() if path.exists() else PREAMBLE
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(machine.versions(peers))
    about = f"*{date} · {machine.summary()} · {versions}*"
    path.write_text(replace_section(document, name, f"{about}\n\n{body}"))


def publish(name: str, body: str, *, peers: tuple[str, ...] = (), options: Namespace) -> None:
    """Prints a section, and writes it unless `--dry` was given."""
    sys.stdout.write(f"## {name}\n\n{body.strip()}\n\n")
    sys.stdout.flush()
    if not options.dry:
        write(name, body, peers=peers)
