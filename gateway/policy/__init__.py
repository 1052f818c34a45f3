"""Policies: each file decides one thing about a request, at once, the clock passed in."""

from gateway.policy.ratelimit import RateLimiter, address_key

__all__ = ["RateLimiter", "address_key"]
