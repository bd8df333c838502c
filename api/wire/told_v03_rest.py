"""Answers of A2A 0.3 over HTTP+JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict

from . import v03_rest
from .reading import Metadata, exactly_one_of
from .told_model import Told, enum

State03Rest = Annotated[str, enum(*v03_rest.STATES.values())]


class TaskStatus03Rest(Told):
    """Where a task stands."""

    state: State03Rest
    message: v03_rest.MessageShape | None = None
    timestamp: datetime


class Artifact03Rest(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v03_rest.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task03Rest(Told):
    """A task."""

    id: str
    context_id: str
    status: TaskStatus03Rest
    artifacts: list[Artifact03Rest] | None = None
    history: list[v03_rest.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent03Rest(Told):
    """A task's state has changed."""

    task_id: str
    context_id: str
    status: TaskStatus03Rest
    final: bool | None = None
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent03Rest(Told):
    """An artifact, or a piece of one."""

    task_id: str
    context_id: str
    artifact: Artifact03Rest
    append: bool | None = None
    last_chunk: bool | None = None
    metadata: Metadata | None = None


class SendMessageResponse03Rest(Told):
    """A task, or the agent's bare message."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("task", "message"))

    task: Task03Rest | None = None
    message: v03_rest.MessageShape | None = None


class StreamResponse03Rest(Told):
    """The `data` of one server-sent event."""

    model_config = ConfigDict(
        json_schema_extra=exactly_one_of("task", "message", "statusUpdate", "artifactUpdate")
    )

    task: Task03Rest | None = None
    message: v03_rest.MessageShape | None = None
    status_update: TaskStatusUpdateEvent03Rest | None = None
    artifact_update: TaskArtifactUpdateEvent03Rest | None = None


class ListTasksResponse03Rest(Told):
    """A page of tasks."""

    tasks: list[Task03Rest]
    next_page_token: str
    page_size: int
    total_size: int


class ListTaskPushNotificationConfigResponse03Rest(Told):
    """All configs of a task."""

    configs: list[v03_rest.NamedCallback]
    next_page_token: str | None = None
