"""Our own operations on deliveries to webhooks: the log, replays, and enabling what was disabled."""

from __future__ import annotations

from perdure.errors import InvalidParams
from perdure.telling import Json

from .operations import Call
from .wire import deliveries as wire
from .wire import reading


async def list_deliveries(call: Call) -> Json:
    """`webhooks/deliveries`."""
    asked = reading.read(wire.ListDeliveries, call.params)
    found = await call.manager.callbacks.deliveries(
        wire.query(call.caller.owner, asked), page_size=asked.page_size or 50, after=asked.cursor()
    )
    return wire.page(found)


async def list_attempts(call: Call) -> Json:
    """`webhooks/attempts`."""
    asked = reading.read(wire.NameDelivery, call.params)
    found = await call.manager.callbacks.attempts(call.caller, wire.delivery_uuid(asked.delivery_id))
    return wire.attempts(list(found))


async def replay(call: Call) -> Json:
    """`webhooks/replay`."""
    asked = reading.read(wire.ReplayDeliveries, call.params)
    if not (asked.delivery_id or asked.task_id or asked.since):
        raise InvalidParams(
            "deliveryId", "is required, or else taskId or since: not everything is sent again"
        )
    return {"deliveries": await call.manager.callbacks.replay(wire.query(call.caller.owner, asked))}


async def enable(call: Call) -> Json:
    """`webhooks/enable`."""
    asked = reading.read(wire.NameCallback, call.params)
    await call.manager.callbacks.enable(call.caller, asked.task_id, asked.config_id)
    return {}
