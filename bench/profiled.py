"""The gateway with a profiler in it: one that samples, or one that counts every call.

Started by `bench profile` instead of `python -m gateway`; writes JSON to the file BENCH_PROFILE
names when it ends. The sampler looks every millisecond of CPU: `samples`, `self`,
`with_callees`. A signal is delivered between two bytecodes, so what C code a function called is put
down to that function, and system calls of the loop itself to the callback that follows. With
BENCH_PROFILE_CALLS set every call is counted instead (`calls`): slow, but exact on a busy machine.
"""

from __future__ import annotations

import cProfile
import json
import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import cast

_INTERVAL_SECONDS = 0.001


class Sampler:
    """Counts functions at each tick of the CPU clock."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[str] = Counter()
        self.with_callees: Counter[str] = Counter()

    def start(self) -> None:
        """Begins to sample; only in the main thread."""
        signal.signal(signal.SIGPROF, self._tick)
        # A system call that was interrupted goes on instead of failing
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)

    def stop(self) -> None:
        """Ends sampling."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self.samples += 1
        if frame is not None:
            self.own[_name(frame)] += 1
        seen = set()
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        self.with_callees.update(seen)

    def report(self) -> dict[str, object]:
        """All counts, largest first."""
        return {
            "samples": self.samples,
            "self": self.own.most_common(60),
            "with_callees": self.with_callees.most_common(60),
        }


def _name(frame: FrameType) -> str:
    return _place(frame.f_code.co_filename, frame.f_code.co_qualname)


def _place(file: str, name: str) -> str:
    if file == "~":  # built into the interpreter
        return name
    place = Path(file)
    return f"{place.parent.name}/{place.name} {name}"


class Counting:
    """Counts each call, by cProfile, and the time spent in the function itself."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def start(self) -> None:
        """Begins to count."""
        self._profile.enable()

    def stop(self) -> None:
        """Ends counting."""
        self._profile.disable()

    def report(self) -> dict[str, object]:
        """`calls`: name, number of calls, seconds in the function itself; most called first."""
        rows = [
            (_place(file, name), calls, own)
            for (file, _, name), (_, calls, own, _, _) in _statistics(self._profile).items()
        ]
        return {"calls": sorted(rows, key=lambda row: -row[1])[:500]}


_Statistics = dict[tuple[str, int, str], tuple[int, int, float, float, object]]


def _statistics(profile: cProfile.Profile) -> _Statistics:
    profile.create_stats()
    return cast(_Statistics, vars(profile)["stats"])


def main() -> None:
    """Runs `gateway server` under the profiler; ends as it ends."""
    path = Path(os.environ.pop("BENCH_PROFILE"))
    profiler = Counting() if os.environ.pop("BENCH_PROFILE_CALLS", "") else Sampler()
    sys.argv = ["gateway", "server"]
    profiler.start()
    try:
        runpy.run_module("gateway", run_name="__main__")
    finally:
        profiler.stop()
        path.write_text(json.dumps(profiler.report()))


if __name__ == "__main__":
    main()
