"""What the figures were measured on: cores, CPU, kernel, versions; and which core is whose.

Linux only, as the measuring is: it reads /proc.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_PACKAGES = ("uvloop", "httptools", "aiohttp", "orjson")


def proxy_cores() -> set[int]:
    """The core that the proxy under measurement runs on, alone."""
    return {min(os.sched_getaffinity(0))}


def other_cores() -> set[int]:
    """The core of client and backend: the second one, where there is a second."""
    return {sorted(os.sched_getaffinity(0))[:2][-1]}


def summary() -> str:
    """Such as `2 cores AMD EPYC, Linux 6.1.0`."""
    cores = os.cpu_count() or 1
    return f"{cores} core{'s' if cores > 1 else ''} {_cpu_model()}, Linux {platform.release()}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def versions(peers: Iterable[str]) -> list[str]:
    """The versions of Python and its packages, then of each named peer as it says itself."""
    said = [f"Python {platform.python_version()} ({_python_build()})"]
    said += [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    return said + [version for version in map(_program_version, peers) if version]


def _python_build() -> str:
    """How the interpreter was built: it is worth a quarter of the cost of a request and more."""
    shared = "libpython" in Path("/proc/self/maps").read_text()
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    words = ["shared libpython" if shared else "no shared libpython"]
    if optimised:
        words.append("--enable-optimizations")
    return ", ".join(words)


def _program_version(name: str) -> str:
    commands = {
        "nginx": (["nginx", "-v"], r"nginx/([\d.]+)"),
        "haproxy": (["haproxy", "-v"], r"version ([\d.]+)"),
        "caddy": (["caddy", "version"], r"v?([\d.]+)"),
        "cargo": (["cargo", "--version"], r"cargo ([\d.]+)"),
        "wrk": (["wrk", "-v"], r"/?(\d+\.\d+[\d.]*)"),
    }
    if name not in commands or shutil.which(name) is None:
        return ""
    command, pattern = commands[name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return f"{name} {found.group(1)}" if found else name
