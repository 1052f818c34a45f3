"""A reverse proxy with event streams: see docs/architecture.md for the rooms and the arrows."""

__version__ = "0.1.0"
