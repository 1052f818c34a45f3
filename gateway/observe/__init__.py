"""What the gateway tells about itself: access records, log lines, figures."""

from gateway.observe.access import AccessLog, RecordWriter, Timestamps, timestamp
from gateway.observe.agents import ai_agent
from gateway.observe.log import configure
from gateway.observe.metrics import Metrics, ServiceMetrics, sample_loop_lag

__all__ = [
    "AccessLog",
    "Metrics",
    "RecordWriter",
    "ServiceMetrics",
    "Timestamps",
    "ai_agent",
    "configure",
    "sample_loop_lag",
    "timestamp",
]
