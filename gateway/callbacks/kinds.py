"""The makers of requests that the settings call for; made again when these change."""

from __future__ import annotations

from collections.abc import Callable

from gateway.callbacks.address import Allowed
from gateway.callbacks.callback import CallbackRequests
from gateway.callbacks.forward import ForwardRequests
from gateway.callbacks.roles import Requests
from gateway.settings import Settings


def delivery_requests(
    settings: Settings, new_request_id: Callable[[float], str]
) -> dict[str, Requests]:
    """By kind of delivery. Without a key callbacks are still made, and fail until there is one."""
    allowed = Allowed(settings.callback_allow)
    made: dict[str, Requests] = {"callback": CallbackRequests(settings.webhook_secret, allowed)}
    forward = settings.questions_forward
    if forward is not None:
        service = next(each for each in settings.services if each.name == forward.service)
        made["forward"] = ForwardRequests(forward, service.endpoints, new_request_id)
    return made
