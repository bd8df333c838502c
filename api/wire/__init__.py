"""A2A JSON <-> domain. The only place with camelCase, beside the card and `perdure.stored.payload`, the stored form.

`v1` and `v03` speak a version each and have the functions of `Dialect`; `reading` and `writing` are what they share.
"""

from __future__ import annotations

from typing import Any, Protocol

from perdure.storage import WebhookConfig, WebhookConfigPage
from perdure.tasks import Message, Task, TaskState
from perdure.telling import Json, Update

from .asked import Callback, Send


class Dialect(Protocol):
    """How one version of the protocol speaks. The modules `v1` and `v03` are its implementations."""

    VERSION: str
    NOTHING: Json | None
    """The result of an operation that has none."""
    UNKNOWN_CODES: frozenset[int]
    """Codes of JSON-RPC errors that came with a later version: told as internal errors, with their own text."""

    def read_send(self, params: Any) -> Send:
        """The params of SendMessage and SendStreamingMessage."""

    def read_state(self, name: Any) -> TaskState | None:
        """A filter by state; None when it stands for no filter."""

    def read_callback(self, params: Any) -> tuple[str, Callback]:
        """A task's id and the push notification config to save for it."""

    def read_callback_id(self, params: Any) -> tuple[str, str]:
        """A task's id and the id of one of its push notification configs; "" where the version lets it be left out."""

    def read_callback_to_delete(self, params: Any) -> tuple[str, str]:
        """The same of the one to delete, which is never left out."""

    def read_callback_list(self, params: Any) -> tuple[str, int | None, str | None]:
        """A task's id, how many configs (None: all of them), and after which."""

    def read_tenant(self, params: Any) -> str:
        """The tenant that any request names; "" for none."""

    def task(self, task: Task) -> Json:
        """A Task."""

    def sent(self, answer: Task | Message) -> Json:
        """What a send gives back."""

    def update(self, item: Task | Update | Message) -> Json:
        """What one item of a stream says."""

    def message(self, message: Message) -> Json:
        """A Message."""

    def callback(self, config: WebhookConfig, tenant: str = "") -> Json:
        """A push notification config, to a request that names `tenant`."""

    def callbacks(self, page: WebhookConfigPage, tenant: str = "") -> Any:
        """A page of them."""

    def error_data(self, reason: str, field: str | None, description: str) -> Any:
        """The `data` of a JSON-RPC error, None for none. `field` is the member that is wrong, for InvalidParams."""
