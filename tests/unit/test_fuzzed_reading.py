"""Whatever JSON comes: what reads it gives what was asked for, or an error for the caller that can be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.codes import INTERNAL, refusal
from api.sizes import check_send
from api.wire import Dialect, v03, v03_rest, v1
from api.wire.reading import (
    GetTask,
    GiveFeedback,
    ListContexts,
    ListTasks,
    NameContext,
    check_decoded,
    decode,
    read,
)
from perdure.errors import CallerError
from perdure.settings import ServerSettings
from perdure.stored.payload import dump_message
from perdure.stored.storable import unstorable
from tests.fuzz.requests import anything, change, message, message03, params_of, spoilt, written

much = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
DIALECTS: list[Dialect] = [v1, v03, v03_rest]
READERS: dict[str, Callable[[Dialect, Any], Any]] = {
    "send": lambda dialect, params: dialect.read_send(params),
    "callback": lambda dialect, params: dialect.read_callback(params),
    "callback id": lambda dialect, params: dialect.read_callback_id(params),
    "callback to delete": lambda dialect, params: dialect.read_callback_to_delete(params),
    "callbacks": lambda dialect, params: dialect.read_callback_list(params),
    "task": lambda _, params: read(GetTask, params),
    "tasks": lambda dialect, params: read(ListTasks, params).query("me", dialect.read_state),
    "feedback": lambda _, params: read(GiveFeedback, params),
    "contexts": lambda _, params: read(ListContexts, params),
    "context": lambda _, params: read(NameContext, params),
}
METHODS = [
    "SendMessage", "ListTasks", "CreateTaskPushNotificationConfig", "ListTaskPushNotificationConfigs", "message/send",
    "tasks/pushNotificationConfig/set", "tasks/feedback", "contexts/list", "contexts/get", "GetTask",
]  # fmt: skip


def told(error: CallerError) -> None:
    """It can be told: in JSON, not as an error of ours."""
    refused = refusal(error)
    assert refused.code != INTERNAL
    orjson.dumps([refused.text, refused.field, refused.description])
    assert refused.text


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """The params of some method, changed."""
    params = params_of(draw(st.sampled_from(METHODS)), "t", "c")
    for _ in range(draw(st.integers(1, 3))):
        change(draw, params)
    return params


@st.composite
def changes(draw: st.DrawFn, params: dict[str, Any]) -> None:
    """One change to params that are there."""
    change(draw, params)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=["1.0", "0.3", "0.3 REST"])
@much
@given(st.one_of(anything, changed()))
def test_reading_gives_what_was_asked_for_or_an_error_for_the_caller(
    dialect: Dialect, reader: str, params: Any
) -> None:
    try:
        READERS[reader](dialect, params)
    except CallerError as error:
        told(error)


@much
@given(st.one_of(st.binary(max_size=60), anything.map(written)), st.data())
def test_bytes_are_json_that_can_be_kept_or_an_error_for_the_caller(body: bytes, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        body = data.draw(st.composite(spoilt)(body))
    try:
        value = decode(body)
        check_decoded(value, body, max_depth=64)
    except CallerError as error:
        told(error)
    else:
        assert unstorable(value) is None


@pytest.mark.parametrize(("dialect", "good"), [(v1, message), (v03, message03)], ids=["1.0", "0.3"])
@much
@given(data=st.data())
def test_a_message_that_was_taken_can_be_written(
    dialect: Dialect, good: Callable[[], dict[str, Any]], data: st.DataObject
) -> None:
    params = {"message": good(), "metadata": {"a": 1}}
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(changes(params))
    try:
        body = written(params)
        asked = decode(body)
        check_decoded(asked, body, max_depth=64)
        send = dialect.read_send(asked)
        check_send(send, ServerSettings(), body_bytes=len(body))
    except CallerError as error:
        told(error)
    else:
        orjson.dumps(dump_message(send.message))
        orjson.dumps(dialect.message(send.message))
