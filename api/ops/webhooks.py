"""The page about webhooks: what is told, to whom it cannot be told, and sending it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.ids import parse_task_id
from perdure.storage.webhooks import Delivery, DeliveryCursor, DeliveryQuery, DeliveryState, Endpoint

from ..auth import Caller
from .desk import Desk
from .looks import percent
from .shown import shown

_PAGE = 100


async def webhooks(desk: Desk, request: Request, caller: Caller) -> Response:
    """Endpoints that are in trouble, and the newest deliveries."""
    state = _state(request.query_params.get("state", ""))
    page, endpoints = await asyncio.gather(
        desk.storage.list_deliveries(
            DeliveryQuery(owner=None, state=state), page_size=_PAGE, after=_after(request)
        ),
        desk.storage.list_endpoints(limit=100),
    )
    ended = [each for each in page.deliveries if each.state is not DeliveryState.WAITING]
    good = sum(each.state is DeliveryState.DELIVERED for each in ended)
    return await shown(
        desk,
        request,
        "webhooks.html",
        "/webhooks",
        deliveries=page.deliveries,
        next=page.next,
        state=state,
        delivery_states=list(DeliveryState),
        success=percent(good, len(ended)),
        endpoints=[(each, *_rate(each, page.deliveries)) for each in endpoints],
    )


async def delivery(desk: Desk, request: Request, caller: Caller) -> Response:
    """One, with all its attempts."""
    found, attempts = await asyncio.gather(
        _found(desk, request.path_params["delivery_id"]),
        desk.storage.delivery_attempts(None, request.path_params["delivery_id"]),
    )
    return await shown(
        desk, request, "delivery.html", "/webhooks", delivery=found, attempts=list(reversed(attempts))
    )


async def _found(desk: Desk, delivery_id: UUID) -> Delivery:
    page = await desk.storage.list_deliveries(DeliveryQuery(owner=None, delivery_id=delivery_id), page_size=1)
    if not page.deliveries:
        raise HTTPException(404, "There is no such delivery; old ones are forgotten.")
    return page.deliveries[0]


def _rate(endpoint: Endpoint, deliveries: Sequence[Delivery]) -> tuple[str, int]:
    """How many of the endpoint's deliveries on this page arrived, of how many that have an end."""
    states = Counter(each.state for each in deliveries if each.endpoint == endpoint.endpoint)
    ended = states[DeliveryState.DELIVERED] + states[DeliveryState.FAILED]
    return percent(states[DeliveryState.DELIVERED], ended), ended


def _state(name: str) -> DeliveryState | None:
    try:
        return DeliveryState(name) if name else None
    except ValueError:
        raise HTTPException(400, "There is no such state.") from None


def _after(request: Request) -> DeliveryCursor | None:
    delivery_id = parse_task_id(request.query_params.get("before", ""))
    try:
        time = datetime.fromisoformat(request.query_params.get("at", ""))
    except ValueError:
        return None
    return DeliveryCursor(time, delivery_id) if delivery_id and time.tzinfo else None
