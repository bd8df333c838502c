"""The operations as both bindings run them: params in, result out, in the words of a dialect.

An operation that answers returns JSON; one that streams returns an iterator whose first item brings its errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from perdure.errors import InvalidParams
from perdure.notes import NOTES, noted, without_notes
from perdure.owners import ONLY, owner_at
from perdure.settings import ServerSettings
from perdure.tasks import Message, Task
from perdure.telling import Json, Update

from . import replies, sizes
from .auth import Caller
from .card import ExtendedCard
from .connection import link_of
from .extensions import Extensions
from .feeds import Take, refuse
from .idempotency import HEADER, REPLAYED, key_of
from .media_types import Modes
from .rates import Rates
from .task_manager import TaskManager
from .wire import Dialect, reading, writing
from .wire.asked import Send


@dataclass(frozen=True, slots=True)
class Door:
    """What every request needs."""

    manager: TaskManager
    settings: ServerSettings
    modes: Modes
    extended_card: ExtendedCard
    extensions: Extensions
    rates: Rates
    direct_replies: bool = False
    agent: str = ONLY
    """Whose it is, among several."""
    tenants: Mapping[str, Door] = field(default_factory=dict)
    """At the root of several agents: the door of each, which a request chooses by its tenant. Who names none is let in here."""

    def of(self, tenant: str) -> Door:
        """The door for a request that names this tenant. `InvalidParams` at a root that has no such agent."""
        if not self.tenants or not tenant:
            return self
        found = self.tenants.get(tenant)
        if found is None:
            raise InvalidParams("tenant", f"must be the name of an agent here: {', '.join(self.tenants)}")
        return found

    def caller(self, caller: Caller) -> Caller:
        """The caller at this agent."""
        return replace(caller, owner=owner_at(self.agent, caller.owner)) if self.agent else caller

    def call(self, caller: Caller, dialect: Dialect, params: Any, request: Request, body: bytes) -> Call:
        """A request that was understood, at the door of the agent that it names. `InvalidParams` as in `of`."""
        door = self.of(dialect.read_tenant(params)) if self.tenants else self
        active = door.extensions.activated(request)
        return Call(
            door,
            door.caller(caller),
            dialect,
            params,
            request.headers,
            len(body),
            partial(leaving, request),
            extensions=active.uris,
            said=active.headers,
        )


@dataclass(slots=True)
class Call:
    """One request, whichever binding it came by."""

    door: Door
    caller: Caller
    dialect: Dialect
    params: Any
    headers: Headers
    body_bytes: int
    leaving: Callable[[Callable[[], None]], Callable[[], object]]
    """See `leaving`."""
    extensions: Sequence[str] = ()
    """The URIs of those that the request activated."""
    said: dict[str, str] = field(default_factory=dict)
    """Headers of the answer."""

    @property
    def manager(self) -> TaskManager:
        return self.door.manager


def leaving(request: Request, then: Callable[[], None]) -> Callable[[], object]:
    """Calls `then` when the caller of a request that was read has gone; not once what this returns was called."""
    link = link_of(request.scope)
    if link is not None:
        return link.when_lost(then)
    return asyncio.create_task(_gone(request.receive, then)).cancel


async def _gone(receive: Receive, then: Callable[[], None]) -> None:
    """How other servers tell it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    then()


Answer = Callable[[Call], Awaitable[Any]]
Stream = Callable[[Call, Take], AsyncIterator[Task | Update | Message | None]]
"""What a stream says, but for the updates that are taken."""


# ------------------------------------------------------------------ messages


async def send_message(call: Call) -> Json:
    """SendMessage."""
    send = _send(call)
    answer = await call.manager.send_message(
        call.caller, send, repeated=_replayed(call), leaving=call.leaving
    )
    return call.dialect.sent(replies.shown(send, answer))


def stream_message(call: Call, take: Take) -> AsyncIterator[Task | Update | Message | None]:
    """SendStreamingMessage."""
    send = _send(call)
    holds = call.door.direct_replies and not send.message.task_id
    items = call.manager.stream_message(
        call.caller, send, repeated=_replayed(call), take=refuse if holds else take
    )
    return replies.held_back(items) if holds else items


def _send(call: Call) -> Send:
    """The key is of the send as it came, before anything is noted in its message. A caller's own notes are dropped from the
    metadata of the request as well: a follow-up's message takes it over."""
    send = call.dialect.read_send(call.params)
    sizes.check_send(send, call.door.settings, body_bytes=call.body_bytes)
    call.door.modes.check(send)
    message_ids = call.door.settings.idempotent_message_ids
    key = key_of(call.headers.getlist(HEADER), send, message_ids=message_ids)
    message = noted(
        send.message,
        accepted_output_modes=send.accepted_output_modes,
        extensions=call.extensions,
        tenant=send.tenant,
    )
    if key is None and message is send.message and NOTES.isdisjoint(send.metadata):
        return send
    return replace(send, message=message, metadata=without_notes(send.metadata), key=key)


def _replayed(call: Call) -> Callable[[], None]:
    return lambda: call.said.update({REPLAYED: "true"})


def subscribe(call: Call, take: Take) -> AsyncIterator[Task | Update | None]:
    """SubscribeToTask; with a `Last-Event-ID` it goes on after that event."""
    asked = reading.read(reading.GetTask, call.params)
    return call.manager.subscribe(
        call.caller,
        asked.id,
        after=_event_number(call.headers.get("Last-Event-ID")),
        history_length=asked.history_length,
        take=take,
    )


def _event_number(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidParams("Last-Event-ID", "must be the id of an event of this task: a number")
    return int(text)


# ------------------------------------------------------------------ tasks


async def get_task(call: Call) -> Json:
    """GetTask."""
    asked = reading.read(reading.GetTask, call.params)
    task = await call.manager.get_task(call.caller, asked.id, history_length=asked.history_length)
    return call.dialect.task(task)


async def list_tasks(call: Call) -> Json:
    """ListTasks."""
    query = reading.read(reading.ListTasks, call.params).query(call.caller.owner, call.dialect.read_state)
    return writing.task_page(await call.manager.list_tasks(query), call.dialect.task)


async def cancel_task(call: Call) -> Json:
    """CancelTask."""
    asked = reading.read(reading.NameTask, call.params)
    return call.dialect.task(await call.manager.cancel_task(call.caller, asked.id))


async def give_feedback(call: Call) -> Json:
    """`tasks/feedback`, ours."""
    asked = reading.read(reading.GiveFeedback, call.params)
    metadata = asked.metadata or {}
    sizes.check_metadata("metadata", metadata, call.door.settings, body_bytes=call.body_bytes)
    stored = await call.manager.give_feedback(
        call.caller, asked.task_id, asked.feedback, rating=asked.rating, metadata=metadata
    )
    return writing.feedback(stored)


# ------------------------------------------------------------------ conversations, ours


async def list_contexts(call: Call) -> Json:
    """`contexts/list`."""
    asked = reading.read(reading.ListContexts, call.params)
    page = await call.manager.list_contexts(
        call.caller, page_size=asked.page_size or 50, after=reading.read_token(asked.page_token)
    )
    return writing.context_page(page)


async def get_context(call: Call) -> Json:
    """`contexts/get`."""
    asked = reading.read(reading.NameContext, call.params)
    found = await call.manager.load_context(
        call.caller, asked.context_id, history_length=asked.history_length
    )
    return writing.context(found, call.dialect.message)


async def clear_context(call: Call) -> Json:
    """`contexts/clear`."""
    asked = reading.read(reading.NameContext, call.params)
    return writing.cleared(asked.context_id, await call.manager.clear_context(call.caller, asked.context_id))


# ------------------------------------------------------------------ push notification configs


async def save_callback(call: Call) -> Json:
    """CreateTaskPushNotificationConfig."""
    task_id, callback = call.dialect.read_callback(call.params)
    saved = await call.manager.callbacks.save(call.caller, task_id, callback)
    return call.dialect.callback(saved, call.dialect.read_tenant(call.params))


async def get_callback(call: Call) -> Json:
    """GetTaskPushNotificationConfig."""
    task_id, config_id = call.dialect.read_callback_id(call.params)
    found = await call.manager.callbacks.load(call.caller, task_id, config_id)
    return call.dialect.callback(found, call.dialect.read_tenant(call.params))


async def list_callbacks(call: Call) -> Any:
    """ListTaskPushNotificationConfigs."""
    task_id, page_size, after = call.dialect.read_callback_list(call.params)
    page = await call.manager.callbacks.list_all(call.caller, task_id, page_size=page_size, after=after)
    return call.dialect.callbacks(page, call.dialect.read_tenant(call.params))


async def delete_callback(call: Call) -> Json | None:
    """DeleteTaskPushNotificationConfig."""
    task_id, config_id = call.dialect.read_callback_to_delete(call.params)
    await call.manager.callbacks.delete(call.caller, task_id, config_id)
    return call.dialect.NOTHING


# ------------------------------------------------------------------ the card


async def get_extended_card(call: Call) -> Json:
    """GetExtendedAgentCard: what the public card says, and what is for callers who have identified themselves."""
    return call.door.extended_card.shown_to(call.caller)
