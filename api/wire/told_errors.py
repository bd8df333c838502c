"""Errors, in every binding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .told_model import Told


class ErrorInfo(Told):
    """A google.rpc.ErrorInfo: which error it is."""

    type: Annotated[
        str, Field(alias="@type", json_schema_extra={"const": "type.googleapis.com/google.rpc.ErrorInfo"})
    ]
    reason: str
    domain: str
    metadata: dict[str, str]


class FieldViolation(Told):
    """A member of the request that is wrong."""

    field: str
    description: str


class BadRequest(Told):
    """A google.rpc.BadRequest: what in the request is wrong."""

    type: Annotated[
        str, Field(alias="@type", json_schema_extra={"const": "type.googleapis.com/google.rpc.BadRequest"})
    ]
    field_violations: list[FieldViolation]


class Status(Told):
    """A google.rpc.Status. `code` is the HTTP status."""

    code: int
    status: str
    message: str
    details: list[ErrorInfo | BadRequest]


class Refused(Told):
    """An error over HTTP+JSON (1.0, section 11.6; AIP-193)."""

    error: Status


class Refused03(Told):
    """An error over 0.3's HTTP+JSON."""

    type: str
    message: str
    error: Status


class RpcError(Told):
    """An error over JSON-RPC. 1.0's `data` is a list of details, 0.3's names a field."""

    code: int
    message: str
    data: list[ErrorInfo | BadRequest] | FieldViolation | None = None


class RpcRefused(Told):
    """The answer to a JSON-RPC request that failed."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: RpcError
