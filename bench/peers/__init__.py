"""The gateway and the others that the benchmarks run beside it, each set to do the same job.

Their configurations lie here as files: nginx.conf, haproxy.cfg, Caddyfile, naive.py, axum/; for
event streams nchan.conf, aiohttp_queue.py, bare.py and again axum/. launch.py starts them.
"""

from bench.peers.launch import Lab, Unavailable

__all__ = ["Lab", "Unavailable"]
