"""The control application: what the gateway itself answers, mounted in memory behind the edge."""

from gateway.control.app import PATHS, ControlState, build_app

__all__ = ["PATHS", "ControlState", "build_app"]
