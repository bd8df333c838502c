"""Answers of A2A 0.3 over JSON-RPC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict

from perdure.tasks import TaskState

from . import v03
from .reading import Metadata, kind
from .told_model import Told, enum

State03 = Annotated[str, enum(*TaskState)]


class TaskStatus03(Told):
    """Where a task stands."""

    state: State03
    message: v03.MessageShape | None = None
    timestamp: datetime


class Artifact03(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v03.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task03(Told):
    """A task."""

    model_config = ConfigDict(json_schema_extra=kind("task"))

    id: str
    context_id: str
    status: TaskStatus03
    artifacts: list[Artifact03] | None = None
    history: list[v03.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent03(Told):
    """A task's state has changed. After a `final` one the stream ends."""

    model_config = ConfigDict(json_schema_extra=kind("status-update"))

    task_id: str
    context_id: str
    status: TaskStatus03
    final: bool
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent03(Told):
    """An artifact, or a piece of one."""

    model_config = ConfigDict(json_schema_extra=kind("artifact-update"))

    task_id: str
    context_id: str
    artifact: Artifact03
    append: bool
    last_chunk: bool
    metadata: Metadata | None = None


class TaskPushNotificationConfig03(Told):
    """A task's push notification config."""

    task_id: str
    push_notification_config: v03.CallbackShape


class ListTasksResponse03(Told):
    """A page of tasks; 0.3 itself has no list."""

    tasks: list[Task03]
    next_page_token: str
    page_size: int
    total_size: int
