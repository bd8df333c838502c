"""The operations as the document tells of them: in prose, and by the types that they take and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perdure import errors

from . import codes, deliveries, idempotency
from . import operations as run
from .wire import deliveries as asked
from .wire import reading, told, v03, v03_rest, v1

Model = type[reading.Shape] | type[told.Told]


@dataclass(frozen=True, slots=True)
class Spoken:
    """An operation: what it does, what it takes and gives, and how it can fail besides what everything can fail with.

    A type stands for all dialects, a mapping tells them apart. `gives` is None where the result is null, a list for one of
    several types, a list in a list for an array.
    """

    name: str
    summary: str
    asks: Any
    gives: Any
    raises: Sequence[type[Exception]] = ()
    headers: Sequence[str] = ()
    body: bool = False
    """Over HTTP+JSON: whether it has one. What the others take stands in the path and the query."""


_SENDING = (
    errors.TaskNotFound,
    errors.UnsupportedOperation,
    errors.ContextBusy,
    errors.KeyReused,
    errors.ContentTypeNotSupported,
    errors.PushNotificationNotSupported,
)
_PUSHING = (errors.TaskNotFound, errors.PushNotificationNotSupported)
_STREAMED = {
    v1: told.StreamResponse,
    v03: [
        told.Task03,
        v03.MessageShape,
        told.TaskStatusUpdateEvent03,
        told.TaskArtifactUpdateEvent03,
    ],
    v03_rest: told.StreamResponse03Rest,
}
_TASK = {v1: told.Task, v03: told.Task03, v03_rest: told.Task03Rest}
_SENDS = {v1: v1.SendShape, v03: v03.SendShape, v03_rest: v03_rest.SendShape}
_CALLBACK = {v1: v1.CallbackShape, v03: told.TaskPushNotificationConfig03, v03_rest: v03_rest.NamedCallback}

SPOKEN: Mapping[Any, Spoken] = {
    run.send_message: Spoken(
        "sendMessage",
        "Send a message, and wait until its task rests, unless told to return at once",
        _SENDS,
        {
            v1: told.SendMessageResponse,
            v03: [told.Task03, v03.MessageShape],
            v03_rest: told.SendMessageResponse03Rest,
        },
        _SENDING,
        (idempotency.HEADER,),
        body=True,
    ),
    run.stream_message: Spoken(
        "streamMessage",
        "Send a message, and follow its task until it rests",
        _SENDS,
        _STREAMED,
        _SENDING,
        (idempotency.HEADER,),
        body=True,
    ),
    run.get_task: Spoken("getTask", "A task as it stands", reading.GetTask, _TASK, (errors.TaskNotFound,)),
    run.list_tasks: Spoken(
        "listTasks",
        "Tasks by their last change of state, newest first, in pages",
        reading.ListTasks,
        {v1: told.ListTasksResponse, v03: told.ListTasksResponse03, v03_rest: told.ListTasksResponse03Rest},
    ),
    run.cancel_task: Spoken(
        "cancelTask",
        "Cancel a task, whatever it does",
        reading.NameTask,
        _TASK,
        (errors.TaskNotFound, errors.TaskNotCancelable),
    ),
    run.subscribe: Spoken(
        "subscribeToTask",
        "Follow a task until it ends; with Last-Event-ID from that event on, also when it has ended",
        reading.GetTask,
        _STREAMED,
        (errors.TaskNotFound, errors.UnsupportedOperation),
        ("Last-Event-ID",),
    ),
    run.save_callback: Spoken(
        "createPushNotificationConfig",
        "Call a webhook with what happens to a task",
        {v1: v1.CallbackShape, v03: v03.SetCallback, v03_rest: v03_rest.SetCallback},
        _CALLBACK,
        _PUSHING,
        body=True,
    ),
    run.get_callback: Spoken(
        "getPushNotificationConfig",
        "One webhook of a task",
        {v1: v1.CallbackName, v03: v03.CallbackName, v03_rest: v1.CallbackName},
        _CALLBACK,
        _PUSHING,
    ),
    run.list_callbacks: Spoken(
        "listPushNotificationConfigs",
        "The webhooks of a task, in pages",
        {v1: v1.CallbackList, v03: v03.CallbackName, v03_rest: v1.CallbackList},
        {
            v1: told.ListTaskPushNotificationConfigsResponse,
            v03: [[told.TaskPushNotificationConfig03]],
            v03_rest: told.ListTaskPushNotificationConfigResponse03Rest,
        },
        _PUSHING,
    ),
    run.delete_callback: Spoken(
        "deletePushNotificationConfig",
        "Forget a webhook; nothing happens if it is not there",
        {v1: v1.CallbackName, v03: v03.DeleteCallback, v03_rest: v1.CallbackName},
        {v1: told.Nothing, v03: None, v03_rest: told.Nothing},
        _PUSHING,
    ),
    run.get_extended_card: Spoken(
        "getExtendedAgentCard",
        "What the agent's card says to authenticated callers",
        reading.Nothing,
        told.AgentCard,
        (errors.UnsupportedOperation, codes.ExtendedCardNotConfigured),
    ),
    run.give_feedback: Spoken(
        "giveFeedback",
        "Say what a task was worth",
        reading.GiveFeedback,
        told.Feedback,
        (errors.TaskNotFound,),
    ),
    run.list_contexts: Spoken(
        "listContexts", "Conversations, last change first, in pages", reading.ListContexts, told.ContextPage
    ),
    run.get_context: Spoken(
        "getContext",
        "A conversation with its messages",
        reading.NameContext,
        {v1: told.WholeContext, v03: told.WholeContext03},
        (errors.ContextNotFound,),
    ),
    run.clear_context: Spoken(
        "clearContext",
        "Delete a conversation with its tasks",
        reading.NameContext,
        told.ClearedContext,
        (errors.ContextNotFound,),
    ),
    deliveries.list_deliveries: Spoken(
        "listDeliveries",
        "What was and is to be told to webhooks, newest first, in pages",
        asked.ListDeliveries,
        told.DeliveryPage,
        (errors.TaskNotFound,),
    ),
    deliveries.list_attempts: Spoken(
        "listAttempts", "How the attempts of one delivery went", asked.NameDelivery, told.Attempts
    ),
    deliveries.replay: Spoken(
        "replayDeliveries",
        "Tell webhooks now, or again: one delivery, or those of a task",
        asked.ReplayDeliveries,
        told.Replayed,
        (errors.TaskNotFound,),
    ),
    deliveries.enable: Spoken(
        "enableWebhook",
        "Tell a webhook now, beginning with what waits, also one that was disabled",
        asked.NameCallback,
        told.Nothing,
        _PUSHING,
    ),
}

ALWAYS = (
    errors.InvalidParams,
    codes.VersionNotSupported,
    codes.ExtensionSupportRequired,
    errors.TooMuch,
    errors.Overloaded,
    errors.StorageUnavailable,
    codes.Unauthenticated,
    codes.InsufficientScope,
    codes.IssuerUnavailable,
    Exception,
)
WITH_A_BODY = (reading.NotJson, codes.WrongContentType, codes.RequestTooLarge, codes.RequestTooSlow)
"""What every operation can fail with."""
