"""What the gateway tells about itself: access records, log lines, figures."""

from gateway.observe.access import AccessLog, RecordWriter, Timestamps, timestamp
from gateway.observe.agents import Agents
from gateway.observe.log import configure
from gateway.observe.metrics import Metrics, ServiceMetrics, sample_loop_lag

__all__ = [
    "AccessLog",
    "Agents",
    "Metrics",
    "RecordWriter",
    "ServiceMetrics",
    "Timestamps",
    "configure",
    "sample_loop_lag",
    "timestamp",
]
