"""From errors to codes, for both bindings: the one table (A2A 1.0, section 5.4), and the errors that only a transport knows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import structlog

from perdure.errors import (
    CallerError,
    ContentTypeNotSupported,
    ContextBusy,
    ContextNotFound,
    InvalidParams,
    KeyReused,
    Overloaded,
    PushNotificationNotSupported,
    StorageUnavailable,
    TaskNotCancelable,
    TaskNotFound,
    TooMuch,
    UnsupportedOperation,
    WebhookConfigNotFound,
)

from .wire.reading import NotJson

log = structlog.get_logger(__name__)


class InvalidRequest(CallerError):
    """JSON, but no request."""


class MethodNotFound(CallerError):
    """No such method or path."""


class MethodNotAllowed(CallerError):
    """The path is there, but not for this HTTP method."""


class VersionNotSupported(CallerError):
    """`A2A-Version` names a version that is not served, or another than the method's."""


class ExtendedCardNotConfigured(CallerError):
    """The agent has no extended card."""


class ExtensionSupportRequired(CallerError):
    """The agent requires an extension that the request does not name."""


class Unauthenticated(CallerError):
    """The caller has to say who it is. `challenge` is the WWW-Authenticate of the answer (RFC 9110, section 11.6.1)."""

    def __init__(self, text: str, challenge: str) -> None:
        super().__init__(text)
        self.challenge = challenge


class InsufficientScope(CallerError):
    """The caller is known, but may not do this (RFC 6750, section 3.1)."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs the scope {scope}")
        self.challenge = f'Bearer realm="perdure", error="insufficient_scope", scope="{scope}"'


class OtherSite(CallerError):
    """A browser was made to send this by a page of another site."""


class IssuerUnavailable(CallerError):
    """The issuer of a token cannot be asked for the keys to verify it with."""


class WrongContentType(ContentTypeNotSupported):
    """The request's own Content-Type is not JSON. Told as 400 and not 415: section 5.4 of 1.0.1 has one status for both."""


class RequestTooLarge(CallerError):
    """The body is over the limit."""


class RequestTooSlow(CallerError):
    """The body did not arrive in time."""


@dataclass(frozen=True, slots=True)
class Code:
    """What an error is called: in JSON-RPC, as HTTP status, as google.rpc status and as reason of an ErrorInfo."""

    rpc: int
    http: int
    status: str
    reason: str


INTERNAL = Code(-32603, 500, "INTERNAL", "INTERNAL_ERROR")

_CODES: dict[type[Exception], Code] = {
    TaskNotFound: Code(-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND"),
    ContextNotFound: Code(-32001, 404, "NOT_FOUND", "CONTEXT_NOT_FOUND"),
    WebhookConfigNotFound: Code(-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND"),
    TaskNotCancelable: Code(-32002, 400, "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE"),
    PushNotificationNotSupported: Code(-32003, 400, "FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED"),
    UnsupportedOperation: Code(-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION"),
    ContextBusy: Code(-32004, 409, "ABORTED", "CONTEXT_BUSY"),
    ContentTypeNotSupported: Code(-32005, 400, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED"),
    ExtendedCardNotConfigured: Code(-32007, 400, "FAILED_PRECONDITION", "EXTENDED_AGENT_CARD_NOT_CONFIGURED"),
    ExtensionSupportRequired: Code(-32008, 400, "FAILED_PRECONDITION", "EXTENSION_SUPPORT_REQUIRED"),
    VersionNotSupported: Code(-32009, 400, "FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED"),
    NotJson: Code(-32700, 400, "INVALID_ARGUMENT", "PARSE_ERROR"),
    InvalidRequest: Code(-32600, 400, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    MethodNotFound: Code(-32601, 404, "NOT_FOUND", "METHOD_NOT_FOUND"),
    MethodNotAllowed: Code(-32601, 405, "UNIMPLEMENTED", "METHOD_NOT_FOUND"),
    InvalidParams: Code(-32602, 400, "INVALID_ARGUMENT", "INVALID_PARAMS"),
    KeyReused: Code(-32602, 409, "ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"),
    Unauthenticated: Code(-32600, 401, "UNAUTHENTICATED", "UNAUTHENTICATED"),
    InsufficientScope: Code(-32600, 403, "PERMISSION_DENIED", "INSUFFICIENT_SCOPE"),
    OtherSite: Code(-32600, 403, "PERMISSION_DENIED", "OTHER_SITE"),
    RequestTooLarge: Code(-32600, 413, "INVALID_ARGUMENT", "REQUEST_TOO_LARGE"),
    RequestTooSlow: Code(-32600, 408, "DEADLINE_EXCEEDED", "REQUEST_TOO_SLOW"),
    TooMuch: Code(-32603, 429, "RESOURCE_EXHAUSTED", "RATE_LIMITED"),
    Overloaded: Code(-32603, 503, "UNAVAILABLE", "OVERLOADED"),
    StorageUnavailable: Code(-32603, 503, "UNAVAILABLE", "UNAVAILABLE"),
    IssuerUnavailable: Code(-32603, 503, "UNAVAILABLE", "UNAVAILABLE"),
    CallerError: Code(-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION"),
}

STORAGE_RETRY_AFTER = 2
"""Seconds. A database that restarts or fails over is back within a few."""

ISSUER_RETRY_AFTER = 10
"""Seconds. Its keys are not asked for more often."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as it is told to the caller: nothing in it comes from inside."""

    code: Code
    text: str
    field: str | None = None
    """The path of the member that is wrong, for InvalidParams."""
    description: str = ""
    """What is wrong with it."""
    retry_after: int | None = None
    challenge: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        wait = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return wait | ({"WWW-Authenticate": self.challenge} if self.challenge else {})


def code_of(kind: type[Exception]) -> Code:
    """The code of a kind of error, or of the nearest that it descends from."""
    return next((_CODES[each] for each in kind.__mro__ if each in _CODES), INTERNAL)


def refusal(error: Exception) -> Refusal:
    """What the caller is told of an error. What it may not know is logged, with the traceback, and told as an internal error."""
    code = code_of(type(error))
    match error:
        case StorageUnavailable():
            log.warning("request.storage_unavailable", error=str(error))
            return Refusal(
                code, "the task store cannot be reached; try again", retry_after=STORAGE_RETRY_AFTER
            )
        case InvalidParams(field=field, description=description):
            return Refusal(code, str(error), field=field, description=description)
        case TooMuch(retry_after=float() | int() as seconds) | Overloaded(retry_after=seconds):
            return Refusal(code, str(error), retry_after=max(1, math.ceil(seconds)))
        case Unauthenticated(challenge=challenge) | InsufficientScope(challenge=challenge):
            return Refusal(code, str(error), challenge=challenge)
        case IssuerUnavailable():
            return Refusal(code, str(error), retry_after=ISSUER_RETRY_AFTER)
        case CallerError():
            return Refusal(code, str(error) or type(error).__name__)
        case _:
            log.error("request.failed", exc_info=error)
            return Refusal(INTERNAL, "an internal error occurred; it has been logged")
