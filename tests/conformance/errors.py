"""How each error is told (A2A 1.0, section 5.4), written from the specification and not from `api.codes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
DOMAIN = "a2a-protocol.org"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


@dataclass(frozen=True, slots=True)
class Told:
    """The code of JSON-RPC, the HTTP status and the google.rpc status of an error."""

    code: int
    http: int
    status: str


ERRORS = {
    "TASK_NOT_FOUND": Told(-32001, 404, "NOT_FOUND"),
    "TASK_NOT_CANCELABLE": Told(-32002, 400, "FAILED_PRECONDITION"),
    "PUSH_NOTIFICATION_NOT_SUPPORTED": Told(-32003, 400, "FAILED_PRECONDITION"),
    "UNSUPPORTED_OPERATION": Told(-32004, 400, "FAILED_PRECONDITION"),
    "CONTENT_TYPE_NOT_SUPPORTED": Told(-32005, 400, "INVALID_ARGUMENT"),
    "INVALID_AGENT_RESPONSE": Told(-32006, 500, "INTERNAL"),
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": Told(-32007, 400, "FAILED_PRECONDITION"),
    "EXTENSION_SUPPORT_REQUIRED": Told(-32008, 400, "FAILED_PRECONDITION"),
    "VERSION_NOT_SUPPORTED": Told(-32009, 400, "FAILED_PRECONDITION"),
    "PARSE_ERROR": Told(-32700, 400, "INVALID_ARGUMENT"),
    "INVALID_REQUEST": Told(-32600, 400, "INVALID_ARGUMENT"),
    "METHOD_NOT_FOUND": Told(-32601, 404, "NOT_FOUND"),
    "INVALID_PARAMS": Told(-32602, 400, "INVALID_ARGUMENT"),
}
_BY_CODE = {told.code: name for name, told in ERRORS.items()}


class Refused(Exception):
    """The answer was an error, in the form that its binding wants; otherwise AssertionError."""

    def __init__(self, name: str, message: str, details: Any) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.details = name, message, details

    @property
    def fields(self) -> list[str]:
        """The paths of the members that are named as wrong."""
        if isinstance(self.details, dict):  # 0.3: ours
            return [self.details["field"]]
        found = [each for each in self.details if each["@type"] == BAD_REQUEST]
        return [violation["field"] for each in found for violation in each["fieldViolations"]]


def refused_by_rpc(error: Json, *, new: bool) -> Refused:
    """The `error` of a JSON-RPC answer."""
    assert set(error) <= {"code", "message", "data"}
    assert isinstance(error["code"], int)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] in _BY_CODE, error
    name = _BY_CODE[error["code"]]
    if new:
        _check_details(error["data"], name)
    return Refused(name, error["message"], error.get("data"))


def refused_by_rest(status: int, body: Json) -> Refused:
    """The status and the body of an HTTP answer. 0.3 has no form of its own: beside ours is what its official client reads."""
    assert set(body) in ({"error"}, {"error", "type", "message"})
    error = body["error"]
    assert body.get("message", error["message"]) == error["message"]
    assert set(error) == {"code", "status", "message", "details"}
    name = str(error["details"][0]["reason"])
    assert (status, error["code"], error["status"]) == (ERRORS[name].http, status, ERRORS[name].status)
    assert error["message"]
    _check_details(error["details"], name)
    return Refused(name, error["message"], error["details"])


def _check_details(details: list[Json], name: str) -> None:
    assert isinstance(details, list)
    assert all(isinstance(each["@type"], str) for each in details)
    (info,) = [each for each in details if each["@type"] == ERROR_INFO]
    assert (info["reason"], info["domain"]) == (name, DOMAIN)
    assert all(isinstance(value, str) for value in info.get("metadata", {}).values())
