"""What answers look like, for the OpenAPI document: types of which nothing is ever made.

Answers are written by `v1`, `v03`, `v03_rest` and `writing`, quicker than a model would. That both say the same is shown by
tests/api/test_openapi.py: it holds real answers of every operation against these, and allows no member that is not here.
Classes ending in 03 are 0.3's JSON-RPC, in 03Rest its HTTP+JSON; what has the same shape in requests is in the dialects.
"""

from __future__ import annotations

from .told_card import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentInterface03,
    AgentProvider,
    AgentSkill,
    SecurityRequirement,
)
from .told_errors import (
    BadRequest,
    ErrorInfo,
    FieldViolation,
    Refused,
    Refused03,
    RpcError,
    RpcRefused,
    Status,
)
from .told_model import Told
from .told_ours import (
    ClearedContext,
    Context,
    ContextPage,
    Feedback,
    Health,
    Readiness,
    WholeContext,
    WholeContext03,
)
from .told_v03 import (
    Artifact03,
    ListTasksResponse03,
    Task03,
    TaskArtifactUpdateEvent03,
    TaskPushNotificationConfig03,
    TaskStatus03,
    TaskStatusUpdateEvent03,
)
from .told_v03_rest import (
    Artifact03Rest,
    ListTaskPushNotificationConfigResponse03Rest,
    ListTasksResponse03Rest,
    SendMessageResponse03Rest,
    StreamResponse03Rest,
    Task03Rest,
    TaskArtifactUpdateEvent03Rest,
    TaskStatus03Rest,
    TaskStatusUpdateEvent03Rest,
)
from .told_v1 import (
    Artifact,
    ListTaskPushNotificationConfigsResponse,
    ListTasksResponse,
    Nothing,
    SendMessageResponse,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskStatus,
    TaskStatusUpdateEvent,
)

__all__ = [
    "AgentCapabilities",
    "AgentCard",
    "AgentExtension",
    "AgentInterface",
    "AgentInterface03",
    "AgentProvider",
    "AgentSkill",
    "Artifact",
    "Artifact03",
    "Artifact03Rest",
    "BadRequest",
    "ClearedContext",
    "Context",
    "ContextPage",
    "ErrorInfo",
    "Feedback",
    "FieldViolation",
    "Health",
    "ListTaskPushNotificationConfigResponse03Rest",
    "ListTaskPushNotificationConfigsResponse",
    "ListTasksResponse",
    "ListTasksResponse03",
    "ListTasksResponse03Rest",
    "Nothing",
    "Readiness",
    "Refused",
    "Refused03",
    "RpcError",
    "RpcRefused",
    "SecurityRequirement",
    "SendMessageResponse",
    "SendMessageResponse03Rest",
    "Status",
    "StreamResponse",
    "StreamResponse03Rest",
    "Task",
    "Task03",
    "Task03Rest",
    "TaskArtifactUpdateEvent",
    "TaskArtifactUpdateEvent03",
    "TaskArtifactUpdateEvent03Rest",
    "TaskPushNotificationConfig03",
    "TaskStatus",
    "TaskStatus03",
    "TaskStatus03Rest",
    "TaskStatusUpdateEvent",
    "TaskStatusUpdateEvent03",
    "TaskStatusUpdateEvent03Rest",
    "Told",
    "WholeContext",
    "WholeContext03",
]
