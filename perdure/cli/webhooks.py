"""`perdure webhooks`: what was told to webhooks, sending it again, and the keys that seal their secrets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from perdure.cli.deliveries import answer_of, attempt_as_json, delivery_as_json, delivery_row, second
from perdure.cli.forms import iso, table, tell
from perdure.cli.operator import fail, on_storage
from perdure.cli.options import EXIT_CODES, JsonOption, LimitOption
from perdure.owners import ONLY, owner_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.storage import Storage
    from perdure.storage.webhooks import DeliveryAttempt, DeliveryQuery, Endpoint

webhooks = typer.Typer(
    name="webhooks",
    help="Look at deliveries of push notifications and send them again. Needs DATABASE_URL.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

TaskOption = Annotated[str | None, typer.Option("--task", help="Of this task.", show_default=False)]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Of the push config with this id.", show_default=False)
]
OwnerOption = Annotated[
    str | None, typer.Option(help="Of this owner; of several agents with --agent.", show_default=False)
]
AgentOption = Annotated[str | None, typer.Option(help="Where the owner is a caller.", show_default=False)]
StateOption = Annotated[str | None, typer.Option(help="waiting, delivered or failed.", show_default=False)]
SinceOption = Annotated[
    str | None, typer.Option(help="From this time on, as in 2026-11-25T20:00.", show_default=False)
]
UntilOption = Annotated[str | None, typer.Option(help="Before this time.", show_default=False)]


@webhooks.command("list", epilog=EXIT_CODES)
def list_deliveries(
    task: TaskOption = None,
    config: ConfigOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    state: StateOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Print deliveries, newest first."""
    query = _query(owner, agent, task, config, state, since, until)
    page = on_storage(lambda storage: storage.list_deliveries(query, page_size=limit))
    if as_json:
        print(json.dumps([delivery_as_json(delivery) for delivery in page.deliveries], indent=2))
        return
    heads = ("DELIVERY", "TASK", "CONFIG", "STATE", "TRIES", "CREATED", "LAST")
    print(table(heads, [delivery_row(delivery) for delivery in page.deliveries]))


@webhooks.command(epilog=EXIT_CODES)
def attempts(
    delivery: Annotated[str, typer.Argument(help="The id of a delivery: its webhook-id.")],
    as_json: JsonOption = False,
) -> None:
    """Print how the attempts of a delivery went, oldest first."""
    delivery_id = _uuid(delivery, "DELIVERY")
    found = on_storage(lambda storage: _attempts(storage, delivery_id))
    if found is None:
        fail(f"there is no delivery {delivery_id}; old ones are forgotten")
    if as_json:
        print(json.dumps([attempt_as_json(attempt) for attempt in found], indent=2))
        return
    rows = [
        (str(each.attempt), second(each.started_at), f"{each.seconds:.3f} s", answer_of(each))
        for each in found
    ]
    print(table(("ATTEMPT", "STARTED", "TOOK", "ANSWER"), rows))


@webhooks.command(epilog=EXIT_CODES)
def replay(
    delivery: Annotated[
        str | None, typer.Argument(help="The id of a delivery, or choose with options.", show_default=False)
    ] = None,
    task: TaskOption = None,
    config: ConfigOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    state: StateOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send deliveries now, one or all that are chosen. Under their ids: again what has an end, without waiting for its next try
    what waits. At most 1000 at once, the oldest first."""
    query = _query(owner, agent, task, config, state, since, until, delivery)
    # What waits would be sent anyway; what has its end, all of it, is asked for by accident more often than not.
    if not any((delivery, task, owner, since, until, state == "waiting")):
        raise typer.BadParameter(
            "which? name a delivery, or choose with --task, --owner, --since, --until or --state waiting"
        )
    number = on_storage(lambda storage: storage.replay_deliveries(query))
    tell({"deliveries": number}, f"{number} deliveries are sent now", as_json=as_json)


@webhooks.command(epilog=EXIT_CODES)
def enable(
    task: Annotated[str, typer.Argument(help="The id of the task.")],
    config: Annotated[str, typer.Argument(help="The id of the push config.")],
    as_json: JsonOption = False,
) -> None:
    """Send to a config again, beginning with what waits. One that was disabled is so no more."""
    task_id = _uuid(task, "TASK")
    if not on_storage(lambda storage: storage.enable_webhook(None, task_id, config)):
        fail(f"task {task} has no push config {config}")
    tell(
        {"taskId": task, "configId": config, "enabled": True}, f"config {config} is enabled", as_json=as_json
    )


@webhooks.command(epilog=EXIT_CODES)
def endpoints(as_json: JsonOption = False) -> None:
    """Print where something waits, fails or is disabled."""
    found = on_storage(lambda storage: storage.list_endpoints())
    if as_json:
        print(json.dumps([_endpoint_as_json(endpoint) for endpoint in found], indent=2))
        return
    rows = [
        (
            each.endpoint,
            str(each.waiting),
            second(each.oldest),
            str(each.failures),
            second(each.open_until),
            str(each.disabled),
        )
        for each in found
    ]
    heads = ("ENDPOINT AND OWNER", "WAITING", "SINCE", "FAILURES", "LEFT ALONE UNTIL", "DISABLED")
    print(table(heads, rows))


@webhooks.command(epilog=EXIT_CODES)
def key(as_json: JsonOption = False) -> None:
    """Print a new key for WEBHOOKS__KEYS."""
    from perdure.security.vault import new_key

    made = new_key()
    tell({"key": made}, made, as_json=as_json)


@webhooks.command(epilog=EXIT_CODES)
def rotate(as_json: JsonOption = False) -> None:
    """Seal all stored secrets anew. With the first of WEBHOOKS__KEYS: then the others can be taken away."""
    number = on_storage(lambda storage: storage.reseal_webhooks())
    tell({"pushConfigs": number}, f"{number} push configs are sealed with the first key", as_json=as_json)


# ---------------------------------------------------------------------- what they share


def _query(
    owner: str | None,
    agent: str | None,
    task: str | None,
    config: str | None,
    state: str | None,
    since: str | None,
    until: str | None,
    delivery: str | None = None,
) -> DeliveryQuery:
    from perdure.storage.webhooks import DeliveryQuery, DeliveryState

    if agent and not owner:
        raise typer.BadParameter("needs --owner: which of its callers?", param_hint="--agent")
    try:
        wanted = DeliveryState(state) if state else None
    except ValueError:
        raise typer.BadParameter(f"{state!r} is none of waiting, delivered, failed") from None
    return DeliveryQuery(
        owner=None if owner is None else owner_at(agent or ONLY, owner),
        task_id=_uuid(task, "--task") if task else None,
        config_id=config,
        delivery_id=_uuid(delivery, "DELIVERY") if delivery else None,
        state=wanted,
        since=_moment(since, "--since"),
        until=_moment(until, "--until"),
    )


async def _attempts(storage: Storage, delivery_id: UUID) -> Sequence[DeliveryAttempt] | None:
    """None: there is no such delivery."""
    from perdure.storage.webhooks import DeliveryQuery

    known = await storage.list_deliveries(DeliveryQuery(owner=None, delivery_id=delivery_id))
    return await storage.delivery_attempts(None, delivery_id) if known.deliveries else None


def _uuid(text: str, name: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no id", param_hint=name) from None


def _moment(text: str | None, name: str) -> datetime | None:
    """A time; without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 2026-11-25T20:00", param_hint=name) from None
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


def _endpoint_as_json(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint": endpoint.endpoint,
        "waiting": endpoint.waiting,
        "oldest": iso(endpoint.oldest),
        "failures": endpoint.failures,
        "openUntil": iso(endpoint.open_until),
        "disabled": endpoint.disabled,
    }
