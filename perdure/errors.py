"""Every error of Perdure. None knows a transport; `api.jsonrpc` and `api.rest` map them to codes.

PerdureError
├── ConfigError                     a wrong setting, config or command line: one line for people, exit code 2
│   └── SchemaMismatch              the database's schema and the code do not go together
│       ├── SchemaOutdated          the schema is older than the code: says what to run
│       └── CodeOutdated            the schema is too new for the code
├── CallerError                     the caller asked for what cannot be done; the text is for the caller
│   ├── InvalidParams               a member is missing, of the wrong type or out of range (names the field)
│   ├── TaskNotFound                no such task, or not the caller's
│   ├── ContextNotFound             no such context, or not the caller's
│   ├── TaskNotCancelable           the task is over
│   ├── UnsupportedOperation        not possible in the task's state, or switched off
│   ├── ContextBusy                 the agent takes one task of a conversation at a time, and one is under way
│   ├── KeyReused                   an idempotency key was used before, for something else
│   ├── ContentTypeNotSupported     a media type the agent does not take
│   ├── PushNotificationNotSupported
│   ├── WebhookConfigNotFound
│   ├── TooMuch                     the caller is over a limit of its own: says which and when to try again
│   └── Overloaded                  all callers together are over a limit: says when to try again
├── StorageUnavailable              the database cannot be reached now; nothing was half-written
├── QueueUnavailable                Redis cannot be reached now; nothing depends on it
├── ArchiveFailed                   what is about to be deleted cannot be written down first; nothing was deleted
├── LeaseLost                       the turn no longer holds its task; what it wrote was refused
├── ServerUnreachable               (clients) nobody answers at the address
├── ServerRefused                   (clients) the server's answer is an error
└── TurnOutcome                     raised (or returned) by a handler to end its turn
    ├── InputRequired               asks the caller for more
    ├── AuthRequired                asks the caller to authenticate
    ├── Rejected                    refuses the task
    ├── AgentError                  fails the task with a text for the caller
    └── Retry                       tries the turn again later
"""

from __future__ import annotations

from perdure.tasks import Message, TaskState


class PerdureError(Exception):
    """The root: catch it to catch all of them."""


class ConfigError(PerdureError):
    """A wrong setting, config or command line. One readable line; the process ends with exit code 2."""


class SchemaMismatch(ConfigError):
    """The database's schema and the code do not go together."""


class SchemaOutdated(SchemaMismatch):
    """The database's schema is older than the code."""


class CodeOutdated(SchemaMismatch):
    """The database's schema is newer than the code, and says that code of this age does not work on it any more."""


class CallerError(PerdureError):
    """The caller asked for what cannot be done. The text is written for the caller."""


class InvalidParams(CallerError):
    """A member is missing, of the wrong type or out of range. `field` is its path in the request, as in `message.parts[0]`."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class TaskNotFound(CallerError):
    """No such task, or not the caller's: the two must not be told apart."""

    def __init__(self, task_id: object) -> None:
        super().__init__(f"there is no task {task_id}")


class ContextNotFound(CallerError):
    """No such context, or not the caller's."""

    def __init__(self, context_id: object) -> None:
        super().__init__(f"there is no context {context_id}")


class TaskNotCancelable(CallerError):
    """The task has ended already."""


class UnsupportedOperation(CallerError):
    """Not possible in the task's state, or switched off for this agent."""


class ContextBusy(CallerError):
    """The agent takes one task of a conversation at a time, and one is under way."""

    def __init__(self, context_id: object) -> None:
        super().__init__(f"the conversation {context_id} has a task under way: wait for its end or cancel it")


class KeyReused(CallerError):
    """An idempotency key was used before, for something else."""

    def __init__(self, key: object) -> None:
        super().__init__(f"the idempotency key {key} was used before with another request")


class ContentTypeNotSupported(CallerError):
    """A media type that this agent does not take."""


class PushNotificationNotSupported(CallerError):
    """Push notifications are switched off for this agent."""


class WebhookConfigNotFound(CallerError):
    """The task has no push notification config with this id."""

    def __init__(self, config_id: object) -> None:
        super().__init__(f"there is no push notification config {config_id}")


class TooMuch(CallerError):
    """The caller is over a limit of its own. `retry_after` is in seconds, None where trying again cannot help."""

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Overloaded(CallerError):
    """All callers together are over a limit: nothing that this one did. `retry_after` is in seconds."""

    def __init__(self, text: str, *, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class StorageUnavailable(PerdureError):
    """The database cannot be reached now. What was asked for has not happened, or can be asked for again safely."""


class ArchiveFailed(PerdureError):
    """What is about to be deleted cannot be written down first: why. Nothing was deleted."""


class QueueUnavailable(PerdureError):
    """Redis cannot be reached now. Nothing is lost: the sweep rings later."""


class LeaseLost(PerdureError):
    """The turn no longer holds its task: `canceled` by its caller, or (False) its lease was lost. Its write was refused."""

    def __init__(self, *, canceled: bool) -> None:
        super().__init__("the task was canceled" if canceled else "the turn's lease was lost")
        self.canceled = canceled


class ServerUnreachable(PerdureError):
    """Nobody answers at the address, for longer than the client waits."""


class ServerRefused(PerdureError):
    """The server's answer is an error. `code` is that of JSON-RPC, 0 without one."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class TurnOutcome(PerdureError):
    """How a handler ends its turn without a result: raise it or return it. `text` or `message` is sent to the caller."""

    state: TaskState = TaskState.FAILED

    def __init__(self, text: str | Message = "") -> None:
        super().__init__(text if isinstance(text, str) else text.text)
        self.message = text


class InputRequired(TurnOutcome):
    """The turn ends; the task waits for the caller's next message."""

    state = TaskState.INPUT_REQUIRED


class AuthRequired(TurnOutcome):
    """The turn ends; the task waits until the caller has authenticated and says so in a message."""

    state = TaskState.AUTH_REQUIRED


class Rejected(TurnOutcome):
    """The agent refuses the task."""

    state = TaskState.REJECTED


class AgentError(TurnOutcome):
    """The task fails, with a text that is meant for the caller."""

    state = TaskState.FAILED


class Retry(TurnOutcome):
    """The turn is run again: after `after` seconds, or when None with the usual growing pause. It costs one of
    TURNS__MAX_FAILURES; when none is left the task fails, with `reason` as its text for the caller."""

    state = TaskState.FAILED

    def __init__(self, after: float | None = None, reason: str | Message = "") -> None:
        super().__init__(reason)
        self.after = after
