"""The media profile: where its rows lead, and its figures."""

from __future__ import annotations

from pathlib import Path

from gateway.settings import RateLimit, Settings, load
from gateway.settings_balancing import BreakerSettings


def media() -> Settings:
    return load({}, Path(__file__).parent.parent / "config" / "media.toml")


def test_the_media_profile_leads_where_it_should() -> None:
    led = {row.name: (row.service, row.auth) for row in media().routes}
    open_ones = {f"/api/v1/{name}/*" for name in
                 ("content", "movies", "tv", "search", "discover", "genres")}  # fmt: skip
    assert led == {
        **dict.fromkeys(open_ones, ("discovery", "optional")),
        "/api/v1/recommendations*": ("sona", "optional"),
        "/api/v1/user/profile/*": ("auth", "required"),
        "/api/v1/user/preferences/*": ("auth", "required"),
        "/api/v1/user/watchlist/*": ("sync", "required"),
        "/api/v1/user/history/*": ("sync", "required"),
    }


def test_the_media_profile_has_its_figures() -> None:
    settings = media()
    assert (settings.port, settings.rate_limit) == (8080, RateLimit(1000, 60))
    assert {
        service.name: (service.endpoints[0].port, service.exposed, service.breaker)
        for service in settings.services
    } == {
        "discovery": (8081, False, BreakerSettings(20, 3.0, 0.5)),
        "sona": (8082, False, BreakerSettings(10, 2.0, 0.4)),
        "sync": (8083, False, BreakerSettings(10, 2.0, 0.5)),
        "auth": (8084, False, BreakerSettings(10, 2.0, 0.5)),
    }
    assert {
        tier.name: (tier.per_second, tier.per_minute, tier.burst) for tier in settings.tiers
    } == {
        "anonymous": (5, 100, 10),
        "free": (10, 200, 20),
        "pro": (50, 1000, 100),
        "enterprise": (200, 5000, 400),
    }
    assert settings.abuse is not None
