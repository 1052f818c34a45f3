"""Which kinds of delivery the settings call for."""

from __future__ import annotations

from gateway.callbacks import delivery_requests
from gateway.settings import Settings, load
from tests.callbacks.rows import delivery
from tests.processes import ROOT


def test_callbacks_are_made_with_the_keys_and_the_list_of_the_settings() -> None:
    settings = Settings(webhook_secret=(b"k" * 32,), callback_allow=("hooks.internal",))
    made = delivery_requests(settings, str)
    assert list(made) == ["callback"]
    assert repr(made["callback"]) == "<CallbackRequests keys=1 <Allowed public hooks.internal>>"


def test_the_orchestration_profile_forwards_to_the_address_of_hitl() -> None:
    settings = load({"HITL_URL": "http://h:1/base"}, ROOT / "config" / "orchestration.toml")
    forward = delivery_requests(settings, str)["forward"]
    made = forward.request(delivery("forward"), 5)
    assert (made.method, str(made.url)) == (
        "PUT",
        "http://h:1/base/api/v1/hitl/approvals/q-1/approve",
    )
