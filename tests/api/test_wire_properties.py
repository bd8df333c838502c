"""Our types against the official SDK's, for random objects: its protobuf for 1.0, its pydantic models and converters for 0.3."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as old
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.wire import v03, v1
from api.wire.asked import Callback
from perdure.storage import WebhookConfig
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    Part,
    RawPart,
    Role,
    StatusChange,
    Task,
    TaskState,
    TextPart,
    UrlPart,
)
from perdure.telling import Update

Json = dict[str, Any]
P = TypeVar("P")

much = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

# ---------------------------------------------------------------------- random objects of the domain

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metadata = st.dictionaries(texts, values, max_size=2)
urls = texts.map(lambda text: f"https://a.test/{text}")
extra = {"metadata": metadata, "filename": texts, "media_type": texts}
parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(TextPart, texts, **extra),
    st.builds(RawPart, st.binary(max_size=12) | st.sampled_from([b"\xfb\xff", b"\xff\xef\xbe"]), **extra),
    st.builds(UrlPart, urls, **extra),
    st.builds(DataPart, values, **extra),
)
messages = st.builds(
    Message,
    message_id=names,
    role=st.sampled_from(Role),
    parts=st.lists(parts, min_size=1, max_size=4).map(tuple),
    context_id=texts,
    task_id=texts,
    metadata=metadata,
    extensions=st.lists(urls, max_size=2).map(tuple),
    reference_task_ids=st.lists(names, max_size=2).map(tuple),
)
artifacts = st.builds(
    Artifact,
    artifact_id=names,
    parts=st.lists(parts, min_size=1, max_size=3).map(tuple),
    name=texts,
    description=texts,
    metadata=metadata,
    extensions=st.lists(urls, max_size=2).map(tuple),
)
# Milliseconds are what is sent.
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - made aware at once
    lambda time: time.replace(tzinfo=UTC, microsecond=time.microsecond // 1000 * 1000)
)
tasks = st.builds(
    Task,
    task_id=st.uuids(),
    context_id=names,
    owner=st.just("me"),
    state=st.sampled_from(TaskState),
    status_message=st.none() | messages,
    status_timestamp=times,
    metadata=metadata,
    history=st.lists(messages, max_size=2),
    artifacts=st.lists(artifacts, max_size=2),
    created_at=times,
    updated_at=times,
    last_seq=st.just(1),
)
updates = st.builds(
    Update,
    task_id=st.uuids(),
    context_id=names,
    seq=st.just(1),
    time=times,
    body=st.builds(StatusChange, st.sampled_from(TaskState), st.none() | messages, metadata)
    | st.builds(ArtifactChunk, artifacts, st.booleans(), st.booleans()),
)
configs = st.builds(
    WebhookConfig,
    config_id=names,
    task_id=st.uuids(),
    url=urls,
    token=texts,
    scheme=names,
    credentials=texts,
)

# ---------------------------------------------------------------------- how they are compared


def parsed(json: Json, into: P) -> P:
    """A ProtoJSON object as the SDK's type; what it does not know is an error."""
    found: P = ParseDict(json, into)
    return found


def dumped(proto: Any, **how: bool) -> Json:
    return dict(MessageToDict(proto, **how))


def dumped03(model: Any) -> Json:
    """A model of 0.3 as it is sent."""
    return dict(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def settled(json: Any, name: str = "") -> Any:
    """What the two may spell differently: the digits of a timestamp, and what is empty or left out."""
    if isinstance(json, dict) and name not in ("metadata", "data", "value"):
        found = {key: settled(value, key) for key, value in json.items()}
        return {key: value for key, value in found.items() if value not in ("", [], {}) or key in KEPT}
    if isinstance(json, list) and name != "data":
        return [settled(each) for each in json]
    if name == "timestamp":
        return datetime.fromisoformat(json)
    return json


KEPT = {"text", "data", "bytes"}
"""Members that say something also when they are empty."""


# ---------------------------------------------------------------------- 1.0, written


@much
@given(tasks)
def test_a_task_of_1_0_is_protojson(task: Task) -> None:
    json = v1.task(task)
    proto = parsed(json, pb.Task())
    assert settled(dumped(proto)) == settled(json)
    assert parsed(dumped(proto), pb.Task()) == proto


@much
@given(updates)
def test_an_update_of_1_0_is_protojson(update: Update) -> None:
    json = v1.update(update)
    assert settled(dumped(parsed(json, pb.StreamResponse()))) == settled(json)


@much
@given(messages)
def test_what_is_written_in_1_0_is_read_back_through_the_sdk(message: Message) -> None:
    proto = parsed(v1.message(message), pb.Message())
    assert v1.MessageShape.model_validate(dumped(proto)).message() == message


@much
@given(configs)
def test_a_config_of_1_0_is_protojson(config: WebhookConfig) -> None:
    json = v1.callback(config)
    assert dumped(parsed(json, pb.TaskPushNotificationConfig())) == json
    task_id, callback = v1.read_callback(dumped(with_secrets(config)))
    assert (UUID(task_id), callback) == (config.task_id, asked(config))


def with_secrets(config: WebhookConfig) -> pb.TaskPushNotificationConfig:
    """As a client sends it. Answers have no secrets."""
    proto = parsed(v1.callback(config), pb.TaskPushNotificationConfig())
    proto.token, proto.url = config.token, config.url
    proto.authentication.credentials = config.credentials
    return proto


def asked(config: WebhookConfig) -> Callback:
    return Callback(
        url=config.url,
        config_id=config.config_id,
        token=config.token,
        scheme=config.scheme,
        credentials=config.credentials,
    )


# ---------------------------------------------------------------------- 1.0, read


@st.composite
def requests(draw: st.DrawFn) -> pb.SendMessageRequest:
    """A random SendMessageRequest of the SDK."""
    proto = pb.SendMessageRequest(message=parsed(v1.message(draw(messages)), pb.Message()))
    configuration = proto.configuration
    configuration.return_immediately = draw(st.booleans())
    configuration.accepted_output_modes.extend(draw(st.lists(names, max_size=2)))
    if draw(st.booleans()):
        configuration.history_length = draw(st.integers(0, 2**31 - 1))
    if draw(st.booleans()):
        configuration.task_push_notification_config.CopyFrom(with_secrets(draw(configs)))
    if draw(st.booleans()):
        parsed(draw(metadata), proto.metadata)
    return proto


@much
@given(requests(), st.booleans(), st.booleans(), st.data())
def test_a_request_of_1_0_is_read_in_every_spelling(
    request: pb.SendMessageRequest, snake: bool, numbered: bool, data: st.DataObject
) -> None:
    """camelCase or snake_case, enums by name or number, base64 in either alphabet, members that nobody knows."""
    json = dumped(request, preserving_proto_field_name=snake, use_integers_for_enums=numbered)
    respell(json, data)
    send = v1.read_send(json)
    assert parsed(v1.message(send.message), pb.Message()) == request.message
    assert send.return_immediately == request.configuration.return_immediately
    length = (
        request.configuration.history_length if request.configuration.HasField("history_length") else None
    )
    assert send.history_length == length
    assert send.metadata == dumped(request.metadata)
    hook = request.configuration.task_push_notification_config
    assert (send.callback.url if send.callback else "") == hook.url


def respell(json: Json, data: st.DataObject) -> None:
    """Change what changes nothing."""
    padded, urlsafe = data.draw(st.booleans()), data.draw(st.booleans())
    for part in json["message"]["parts"]:
        if "raw" in part and not padded:
            part["raw"] = part["raw"].rstrip("=")
        if "raw" in part and urlsafe:
            part["raw"] = part["raw"].replace("+", "-").replace("/", "_")
        part.update(data.draw(strangers))
        for name in ("text", "raw", "url", "metadata", "filename"):
            if data.draw(st.booleans()):
                part.setdefault(name, None)
    json["message"] |= data.draw(strangers)
    json |= data.draw(strangers)


strangers = st.dictionaries(names.map(lambda name: f"x-{name}"), values, max_size=1)


# ---------------------------------------------------------------------- 0.3, written


@much
@given(tasks)
def test_a_task_of_0_3_is_what_the_sdk_makes_of_that_of_1_0(task: Task) -> None:
    json = v03.task(task)
    theirs = conversions.to_compat_task(parsed(v1.task(task), pb.Task()))
    assert settled(json) == settled(dumped03(theirs))
    old.Task.model_validate(json)


@much
@given(updates)
def test_an_update_of_0_3_is_what_the_sdk_makes_of_that_of_1_0(update: Update) -> None:
    json = v03.update(update)
    proto = parsed(v1.update(update), pb.StreamResponse())
    theirs = dumped03(conversions.to_compat_stream_response(proto, 1).result)
    final = json.pop("final", None), theirs.pop("final", None)
    assert settled(json) == settled(theirs)
    if isinstance(update.body, StatusChange):  # the SDK's is not final where the task waits for its caller
        assert final == (update.body.state.rests, update.body.state.terminal)


@much
@given(configs)
def test_a_config_of_0_3_is_what_the_sdk_makes_of_that_of_1_0(config: WebhookConfig) -> None:
    json = v03.callback(config)
    proto = parsed(v1.callback(config), pb.TaskPushNotificationConfig())
    assert settled(json) == settled(dumped03(conversions.to_compat_task_push_notification_config(proto)))
    sent = dumped03(conversions.to_compat_task_push_notification_config(with_secrets(config)))
    task_id, callback = v03.read_callback(sent)
    assert (UUID(task_id), callback) == (config.task_id, asked(config))


# ---------------------------------------------------------------------- 0.3, read


@much
@given(messages)
def test_a_message_of_0_3_means_what_the_sdk_takes_it_for(message: Message) -> None:
    model = conversions.to_compat_message(parsed(v1.message(message), pb.Message()))
    ours = v03.MessageShape.model_validate(dumped03(model)).message()
    theirs = conversions.to_core_message(model)
    assert settled(v1.message(ours)) == settled(dumped(theirs))
    assert settled(v03.message(ours)) == settled(dumped03(model))


@much
@given(requests(), st.data())
def test_a_request_of_0_3_means_what_the_same_request_of_1_0_means(
    request: pb.SendMessageRequest, data: st.DataObject
) -> None:
    model = conversions.to_compat_send_message_request(request, 1)
    json = dumped03(model.params)
    json |= data.draw(strangers)
    json["message"] |= data.draw(strangers)
    send = v03.read_send(json)
    again = v1.read_send(dumped(conversions.to_core_send_message_request(model)))
    assert settled(v1.message(send.message)) == settled(v1.message(again.message))
    assert (send.return_immediately, send.callback) == (again.return_immediately, again.callback)
    assert send.metadata == again.metadata
    length = (
        request.configuration.history_length if request.configuration.HasField("history_length") else None
    )
    assert (
        send.history_length == length
    )  # to the SDK 0 is no limit in 0.3; to us it is no history, in both versions


@much
@given(messages)
def test_there_and_back_between_the_versions(message: Message) -> None:
    """What 0.3 can spell survives; of a text or a value it cannot spell filename and mediaType."""
    back = v03.MessageShape.model_validate(v03.message(message)).message()
    spelled = tuple(
        part if isinstance(part, RawPart | UrlPart) else type(part)(value(part), metadata=part.metadata)
        for part in message.parts
    )
    assert back.parts == spelled
    assert (back.role, back.metadata, back.context_id) == (message.role, message.metadata, message.context_id)


def value(part: TextPart | DataPart) -> Any:
    return part.text if isinstance(part, TextPart) else part.data
