"""Spans with ids that are known before them: the part of tracing that needs the SDK's own classes.

Imported only where spans are exported, by trace.py.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context


class GivenIds(IdGenerator):
    """Gives the next span the ids that were set."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        """The trace's, for a span without a parent."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """The span's."""
        return self.span_id


def parent_context(trace_id: int, span_id: int | None, *, remote: bool) -> Context:
    """The context of a span below this one; None: it is the first of its trace."""
    if span_id is None:
        return Context()
    parent = SpanContext(trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())
