"""Histories of jobs as they ran, and the script that records them (`-m tests.histories.record`).

`tests/jobs/test_replay.py` replays each with today's code. A history is never changed by hand: it
stands for jobs that are under way when a new version is deployed. When a workflow changes behind
`workflow.patched`, record a new one beside the old under another name.
"""
