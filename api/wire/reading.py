"""Reading requests: what both versions share.

Lenient, as ProtoJSON wants it: camelCase and snake_case, null as if left out, unknown members ignored, numbers as text.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from perdure.errors import CallerError, InvalidParams
from perdure.storage import Cursor, TaskQuery
from perdure.stored.storable import unstorable
from perdure.tasks import Message, TaskState


class NotJson(CallerError):
    """The body is no JSON."""


DEEPEST = 100
"""Whatever the setting says: no storage keeps more (`perdure.stored.storable`), and orjson writes no more than 254 levels."""

_BIG_NUMBER = re.compile(rb"\d{19}")


def decode(body: bytes) -> Any:
    """The JSON of a request's body. `NotJson` if it is none, lone surrogates and NaN included."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"the body is not valid JSON: {error.msg} (at character {error.pos})") from None


def check_decoded(value: Any, body: bytes, *, max_depth: int) -> None:
    """`InvalidParams` if the JSON of a body holds what cannot be stored.

    Apart from `decode`, so that who refuses it knows by then how to answer. What parsing lets through leaves traces that are
    quickly looked for in the bytes; only a body that shows one is walked through.
    """
    nesting = body.count(b"{") + body.count(b"[")
    if nesting > min(max_depth, DEEPEST) or b"\\u0000" in body or _BIG_NUMBER.search(body):
        check_storable(value, max_depth=max_depth)


def check_storable(value: Any, *, max_depth: int) -> None:
    """`InvalidParams` if `value` holds what no database can keep."""
    if found := unstorable(value, depth=min(max_depth, DEEPEST)):
        path, why = found
        raise InvalidParams(path.removeprefix("params."), why)


MAX_ID = 256
MAX_URL = 8192
INT32 = 2**31 - 1


def spelled(name: str) -> str:
    """A member's name as A2A's JSON has it, however it came: `history_length` is `historyLength`."""
    return to_camel(name)


class Shape(BaseModel):
    """The members of a request."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class MessageMembers(Shape):
    """What a message is made of in every version. Each says how it spells a Role, and parts as shapes with a method `part`."""

    message_id: GivenId
    role: Any
    parts: list[Any]
    context_id: Id | None = None
    task_id: Id | None = None
    metadata: Metadata | None = None
    extensions: list[Url] | None = None
    reference_task_ids: list[Id] | None = None

    def message(self) -> Message:
        return Message(
            message_id=self.message_id,
            role=self.role,
            parts=tuple(part.part() for part in self.parts),
            context_id=self.context_id or "",
            task_id=self.task_id or "",
            metadata=self.metadata or {},
            extensions=tuple(self.extensions or ()),
            reference_task_ids=tuple(self.reference_task_ids or ()),
        )


def exactly_one_of(*members: str) -> Callable[[dict[str, Any]], None]:
    """Says in the JSON schema what a validator of the model checks."""
    return lambda schema: schema.update(oneOf=[{"required": [member]} for member in members])


def kind(name: str) -> Callable[[dict[str, Any]], None]:
    """Says in the JSON schema that 0.3 names the kind of an object. On the way in it is not asked for."""
    return lambda schema: schema["properties"].update(kind={"const": name})


S = TypeVar("S", bound=Shape)


def read(shape: type[S], params: Any) -> S:
    """`params` in the given shape. `InvalidParams` names the first member that is wrong."""
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise InvalidParams("params", "must be an object")
    try:
        return shape.model_validate(params)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidParams(_path(problem["loc"]), _readable(problem["msg"])) from None


def _path(loc: tuple[int | str, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return "".join(steps).removeprefix(".")


def _readable(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Input ").partition(" after validation, not ")[0]
    return "is required" if text == "Field required" else text.replace("should", "must", 1)


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _flag(value: Any) -> bool:
    """A bool; as text where it stood in a query."""
    match value:
        case bool():
            return value
        case "true":
            return True
        case "false":
            return False
    raise ValueError("must be true or false")


def _base64(value: Any) -> bytes:
    """Bytes in either alphabet of base64, padded or not (ProtoJSON)."""
    if not isinstance(value, str):
        raise ValueError("must be base64 text")
    text = value.translate(_URLSAFE).rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (Base64Error, ValueError):
        raise ValueError("is not valid base64") from None


_URLSAFE = str.maketrans("-_", "+/")


def _moment(value: Any) -> datetime:
    """An RFC 3339 timestamp as UTC."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a timestamp such as 2025-12-07T10:00:00Z") from None


WEB_URL = re.compile(r"^[hH][tT][tT][pP][sS]?://[^\s/]")


def _web_url(value: str) -> str:
    if not WEB_URL.search(value):
        raise ValueError("must be an address that begins with http:// or https://")
    return value


def one_of(choices: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """A validator for enums: the value that a name (or a number, as ProtoJSON allows) stands for."""

    def read_name(value: Any) -> Any:
        if type(value) in (str, int) and value in choices:  # no bool, which is an int as well
            return choices[value]
        raise ValueError(f"must be one of {', '.join(name for name in choices if isinstance(name, str))}")

    return read_name


def enum(choices: Mapping[Any, Any], *, shown: Iterable[str] | None = None) -> tuple[Any, ...]:
    """What makes a type an enum: `Annotated[Role, *enum(names)]`. `shown` are the names in its JSON schema; default: all."""
    names = [name for name in choices if isinstance(name, str)] if shown is None else list(shown)
    return PlainValidator(one_of(choices)), WithJsonSchema({"type": "string", "enum": names})


Count = Annotated[int, Field(ge=0, le=INT32), BeforeValidator(_whole_number)]
PageSize = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Base64 = Annotated[
    bytes, BeforeValidator(_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Id = Annotated[str, Field(max_length=MAX_ID)]
GivenId = Annotated[str, Field(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, Field(max_length=1024)]
Url = Annotated[str, Field(max_length=MAX_URL)]
WebUrl = Annotated[
    str,
    Field(max_length=MAX_URL),
    AfterValidator(_web_url),
    WithJsonSchema({"type": "string", "maxLength": MAX_URL, "pattern": WEB_URL.pattern}),
]
Metadata = dict[str, Any]


class NameTask(Shape):
    """CancelTask and its 0.3 form."""

    id: GivenId


class GetTask(Shape):
    """GetTask, SubscribeToTask and their 0.3 forms."""

    id: GivenId
    history_length: Count | None = None


class ListTasks(Shape):
    """ListTasks, and `tasks/list`."""

    context_id: Id | None = None
    status: (
        Annotated[
            str | int, WithJsonSchema({"type": "string", "description": "A state, as the version calls it"})
        ]
        | None
    ) = None
    page_size: PageSize | None = None
    page_token: Annotated[str, Field(max_length=1024)] | None = None
    history_length: Count | None = None
    status_timestamp_after: Moment | None = None
    include_artifacts: Flag | None = None

    def query(self, owner: str, read_state: Callable[[Any], TaskState | None]) -> TaskQuery:
        """What to ask the storage for."""
        return TaskQuery(
            owner=owner,
            context_id=self.context_id or None,
            state=None if self.status is None else read_state(self.status),
            since=self.status_timestamp_after,
            page_size=self.page_size or 50,
            after=read_token(self.page_token),
            history_length=self.history_length,
            include_artifacts=bool(self.include_artifacts),
        )


class GiveFeedback(Shape):
    """`tasks/feedback`."""

    task_id: GivenId
    feedback: Annotated[str, Field(max_length=10_000)] = ""
    rating: Annotated[int, Field(ge=1, le=5), BeforeValidator(_whole_number)] | None = None
    metadata: Metadata | None = None


class Nothing(Shape):
    """No members."""


class ListContexts(Shape):
    """`contexts/list`."""

    page_size: PageSize | None = None
    page_token: Annotated[str, Field(max_length=1024)] | None = None


class NameContext(Shape):
    """`contexts/get`, `contexts/clear`."""

    context_id: GivenId
    history_length: Count | None = None


def read_token(token: str | None) -> Cursor | None:
    """The inverse of `write_token`. `InvalidParams` for what it did not write."""
    if not token:
        return None
    try:
        text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        time, _, key = text.partition(" ")
        if not key or unstorable(key):
            raise ValueError
        return Cursor(_moment(time), key)
    except ValueError:
        raise InvalidParams("pageToken", "is not a token that this server gave out") from None
