"""0.3's HTTP+JSON against the official SDK, for random objects: the protobuf classes of 0.3's own proto, strictly, and what the
SDK's client makes of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb03
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3.proto_utils import FromProto, ToProto
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from api.wire import v03_rest, v1
from perdure.storage import WebhookConfig
from perdure.tasks import Message, RawPart, StatusChange, Task, UrlPart
from perdure.telling import Update

from .test_wire_properties import (
    Json,
    asked,
    configs,
    dumped,
    dumped03,
    messages,
    much,
    parsed,
    requests,
    settled,
    strangers,
    tasks,
    updates,
    value,
    with_secrets,
)


def without_references(json: Any) -> Any:
    """0.3's proto has no place for them."""
    if isinstance(json, list):
        return [without_references(each) for each in json]
    if not isinstance(json, dict):
        return json
    return {name: without_references(each) for name, each in json.items() if name != "referenceTaskIds"}


@much
@given(tasks)
def test_a_task_is_what_the_sdk_makes_of_that_of_1_0(task: Task) -> None:
    theirs = conversions.to_compat_task(parsed(v1.task(task), pb.Task()))
    ours = FromProto.task(parsed(v03_rest.task(task), pb03.Task()))
    assert settled(dumped03(ours)) == without_references(settled(dumped03(theirs)))


@much
@given(updates)
def test_an_update_is_what_the_sdk_makes_of_that_of_1_0(update: Update) -> None:
    theirs = conversions.to_compat_stream_response(parsed(v1.update(update), pb.StreamResponse()), 1).result
    ours = FromProto.stream_response(parsed(v03_rest.update(update), pb03.StreamResponse()))
    told, expected = dumped03(ours), dumped03(theirs)
    final = told.pop("final", None)
    expected.pop("final", None)
    assert settled(told) == without_references(settled(expected))
    if isinstance(update.body, StatusChange):  # the SDK's is not final where the task waits for its caller
        assert final == update.body.state.rests


@much
@given(configs.filter(lambda config: "/" not in config.config_id))
def test_a_config_is_what_the_sdk_makes_of_that_of_1_0(config: WebhookConfig) -> None:
    json = v03_rest.callback(config)
    theirs = conversions.to_compat_task_push_notification_config(
        parsed(v1.callback(config), pb.TaskPushNotificationConfig())
    )
    ours = FromProto.task_push_notification_config(parsed(json, pb03.TaskPushNotificationConfig()))
    assert settled(dumped03(ours)) == settled(dumped03(theirs))
    # As the proto has it, and as the official client sends it.
    secret = dumped03(conversions.to_compat_task_push_notification_config(with_secrets(config)))
    named = {"name": json["name"], "pushNotificationConfig": secret["pushNotificationConfig"]}
    for body in (named, {"config_id": config.config_id, "config": named}):
        task_id, callback = v03_rest.read_callback({"taskId": str(config.task_id), **body})
        assert (UUID(task_id), callback) == (config.task_id, asked(config))


@much
@given(requests(), st.booleans(), st.booleans(), st.data())
def test_a_request_means_what_the_same_request_of_1_0_means(
    request: pb.SendMessageRequest, snake: bool, numbered: bool, data: st.DataObject
) -> None:
    """Sent as the official client does, camelCase or snake_case, enums by name or number, with members that nobody knows."""
    model = conversions.to_compat_send_message_request(request, 1).params
    proto = pb03.SendMessageRequest(
        request=ToProto.message(model.message),
        configuration=ToProto.message_send_configuration(model.configuration),
        metadata=ToProto.metadata(model.metadata),
    )
    json = dumped(proto, preserving_proto_field_name=snake, use_integers_for_enums=numbered)
    json |= data.draw(strangers)
    for name in {"request", "message"} & set(json):
        json[name] |= data.draw(strangers)
    send = v03_rest.read_send(json)
    again = v1.read_send(dumped(request))
    assert settled(v03_rest.message(send.message)) == settled(v03_rest.message(again.message))
    assert (send.return_immediately, send.callback) == (again.return_immediately, again.callback)
    assert (send.metadata, tuple(send.accepted_output_modes)) == (
        again.metadata,
        tuple(again.accepted_output_modes),
    )
    assert send.history_length == (again.history_length or None)  # 0 and left out are the same to the proto


@much
@given(messages)
def test_there_and_back(message: Message) -> None:
    """What 0.3's proto can spell survives; of a text or a value it cannot spell filename and mediaType, nor references at all."""
    back = v03_rest.MessageShape.model_validate(v03_rest.message(message)).message()
    spelled = tuple(
        part if isinstance(part, RawPart | UrlPart) else type(part)(value(part), metadata=part.metadata)
        for part in message.parts
    )
    assert back.parts == spelled
    assert (back.role, back.metadata, back.context_id) == (message.role, message.metadata, message.context_id)


def test_the_check_is_a_check() -> None:
    """The SDK's classes refuse what 0.3's proto does not have."""
    json: Json = {"id": "a", "status": {"state": "TASK_STATE_CANCELED"}}
    with pytest.raises(ParseError, match="TASK_STATE_CANCELED"):
        parsed(json, pb03.Task())
