"""Jobs: what takes longer than a request, made durable by Temporal."""
