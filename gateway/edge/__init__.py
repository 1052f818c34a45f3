"""The door: bytes in, bytes out. No Redis, no Temporal, no aiohttp client."""
