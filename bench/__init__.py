"""Benchmarks: the gateway beside its peers, on one machine, in one run, in CPU time.

`python -m bench` runs them, one module each; `bench/RESULTS.md` holds what they measured. Nothing
in here is imported by the gateway, and no test asserts a time.
"""
