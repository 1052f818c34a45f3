"""Workflow code: what jobs do, in a form that can be replayed. One module for each kind of job.

It imports `temporalio.workflow`, the models of jobs and pure files of jobs only: no clock but the
workflow's, no chance, no socket. What changes in it while jobs run goes behind
`workflow.patched`; `tests/histories` are replayed to find out.
"""
