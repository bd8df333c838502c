"""Settings, from the environment and `.env`: the only reader of the environment.

Nested ones are spelled with two underscores: `STORAGE__POOL_SIZE=20`. docs/configuration.md and `.env.example` list them all
(a test holds both against this package). The environment goes before `.env`, `.env` before the default; an empty value counts
as not given; upper and lower case are the same.
"""

from perdure.settings.environment import environment, hand_on_opentelemetry, wants_colour
from perdure.settings.loading import given, load_settings, sources
from perdure.settings.model import Settings, fields
from perdure.settings.running import (
    LogSettings,
    RetentionSettings,
    StorageSettings,
    TurnSettings,
    WorkerSettings,
)
from perdure.settings.serving import AuthSettings, CardSettings, OpsSettings, ServerSettings
from perdure.settings.values import listed, networks_in, scopes_in
from perdure.settings.webhooks import WebhookSettings

__all__ = [
    "AuthSettings",
    "CardSettings",
    "LogSettings",
    "OpsSettings",
    "RetentionSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TurnSettings",
    "WebhookSettings",
    "WorkerSettings",
    "environment",
    "fields",
    "given",
    "hand_on_opentelemetry",
    "listed",
    "load_settings",
    "networks_in",
    "scopes_in",
    "sources",
    "wants_colour",
]
