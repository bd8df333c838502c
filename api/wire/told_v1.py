"""Answers of A2A 1.0."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict

from perdure.stored.payload import STATE_NAMES

from . import v1
from .reading import Metadata, exactly_one_of
from .told_model import Told, enum

State = Annotated[str, enum(*STATE_NAMES.values())]


class TaskStatus(Told):
    """Where a task stands."""

    state: State
    message: v1.MessageShape | None = None
    timestamp: datetime


class Artifact(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v1.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task(Told):
    """A task. `history` is its messages, oldest first."""

    id: str
    context_id: str
    status: TaskStatus
    artifacts: list[Artifact] | None = None
    history: list[v1.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent(Told):
    """A task's state has changed, or its agent said something."""

    task_id: str
    context_id: str
    status: TaskStatus
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent(Told):
    """An artifact, or a piece of one. `append` adds to the artifact with that id; without it the piece replaces it."""

    task_id: str
    context_id: str
    artifact: Artifact
    append: bool | None = None
    last_chunk: bool | None = None
    metadata: Metadata | None = None


class SendMessageResponse(Told):
    """A task, or the agent's bare message."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("task", "message"))

    task: Task | None = None
    message: v1.MessageShape | None = None


class StreamResponse(Told):
    """The `data` of one server-sent event."""

    model_config = ConfigDict(
        json_schema_extra=exactly_one_of("task", "message", "statusUpdate", "artifactUpdate")
    )

    task: Task | None = None
    message: v1.MessageShape | None = None
    status_update: TaskStatusUpdateEvent | None = None
    artifact_update: TaskArtifactUpdateEvent | None = None


class ListTasksResponse(Told):
    """A page of tasks. `pageSize` is the number of tasks in it, `nextPageToken` is empty on the last one."""

    tasks: list[Task]
    next_page_token: str
    page_size: int
    total_size: int


class ListTaskPushNotificationConfigsResponse(Told):
    """A page of configs."""

    configs: list[v1.CallbackShape]
    next_page_token: str


class Nothing(Told):
    """An empty object."""
