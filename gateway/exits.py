"""The exit codes of the command line, in one place for all that end a process."""

from __future__ import annotations

from typing import Final

EXIT_DONE: Final = 0  # a command that went well; a server that was told to stop and has drained
EXIT_WRONG: Final = 1  # `check` found something wrong; a worker ended as it should not
EXIT_CANNOT_START: Final = 2  # a bad setting, a port in use, wrong usage; argparse's own too
EXIT_STOPPED_AT_ONCE: Final = 130  # interrupted while draining: 128 + SIGINT, as shells have it
