"""The JSON of A2A 1.0: objects, names, values (sections 4.1, 5.5 to 5.7)."""

from __future__ import annotations

import re
from typing import Any

from tests.api.front import at_once, chunk, question

from .marks import IN_ONE_LOOP, NEW, must, should
from .speakers import Json, Speaker, refused
from .test_streams import told

pytestmark = IN_ONE_LOOP

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PARTS: list[Json] = [
    {"text": "hello"},
    {"text": ""},
    {"text": "ü \U0001f600 \u2028 \n"},
    {"raw": "AAEC/w=="},
    {"raw": "AAEC", "filename": "a.bin", "mediaType": "application/octet-stream"},
    {"url": "https://files.test/a", "filename": "a", "mediaType": "image/png"},
    {"data": {"a": [1, 2.5, None, {"b": "c"}]}},
    {"data": {}},
    {"data": [1, "two"]},
    {"data": "text"},
    {"data": 0},
    {"data": False},
    {"data": None},
    {"text": "x", "metadata": {"a": {"b": [1]}}},
]


async def kept(speaker: Speaker, parts: list[Any]) -> list[Json]:
    """How parts come back."""
    found: list[Json] = (await speaker.send(parts=parts))["history"][0]["parts"]
    return found


@must(
    "4.1.6",
    "A part is text, raw bytes, a url or any JSON value, with metadata, filename and mediaType, and comes back as it was sent",
    *NEW,
)
async def test_parts_come_back(speaker: Speaker) -> None:
    assert await kept(speaker, PARTS) == PARTS


@must("4.1.6", "A part with none or several of text, raw, url and data is refused", *NEW)
async def test_a_part_has_one_content(speaker: Speaker) -> None:
    for part in ({}, {"filename": "x"}, {"text": "a", "raw": "AA=="}, {"url": "https://x", "data": {}}):
        assert (await refused(speaker.send(parts=[part]))).name == "INVALID_PARAMS"
    assert await speaker.front.stored() == 0


@must("4.1.4", "A message comes back with all its members", *NEW)
async def test_a_message_comes_back(speaker: Speaker) -> None:
    members = {
        "contextId": "talk",
        "metadata": {"a": 1},
        "extensions": ["https://ext.test/a"],
        "referenceTaskIds": ["0198f7a5-7d3c-7000-8000-000000000000"],
    }
    said = speaker.message("hi", **members)
    result = await speaker.answer("send", {"message": said, "configuration": {"returnImmediately": True}})
    assert result["task"]["history"] == [{**said, "taskId": result["task"]["id"]}]


@must("4.1.1", "A task has id and status; a status has its state; an artifact has its id and parts", *NEW)
async def test_required_members(echoing: Speaker) -> None:
    task = await echoing.send("hi", wait=True)
    assert {"id", "contextId", "status", "artifacts", "history"} <= set(task)
    assert task["status"]["state"]
    assert all({"artifactId", "parts"} <= set(artifact) for artifact in task["artifacts"])
    assert all({"messageId", "role", "parts"} <= set(said) for said in task["history"])


@must("5.5", "Names are camelCase, in answers of every kind", *NEW)
async def test_names_are_camel_case(speaker: Speaker) -> None:
    async with speaker.stream(contextId="talk", referenceTaskIds=["x"]) as events:
        said = [await events.first()]
        turn = await speaker.front.takes()
        await speaker.front.writes(turn, 1, chunk("one", last=True))
        await speaker.front.ends(turn, number=2, **question("why?"))
        said += await events.rest()
    config = await speaker.create_config(said[0].body["id"], url="https://hook.test", token="t")
    for json in (*(event.body for event in said), await speaker.tasks(includeArtifacts=True), config):
        assert [name for name in names(json) if "_" in name or not name[0].islower()] == []


def names(json: Any) -> list[str]:
    """Every member's name, at any depth."""
    if isinstance(json, list):
        return [name for each in json for name in names(each)]
    if isinstance(json, dict):
        return [*json, *(name for each in json.values() for name in names(each))]
    return []


@must("5.5", "Enums are their full names: TASK_STATE_..., ROLE_...", *NEW)
async def test_enums_are_full_names(echoing: Speaker) -> None:
    task = await echoing.send("so?", wait=True)
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert task["status"]["message"]["role"] == "ROLE_AGENT"
    assert task["history"][0]["role"] == "ROLE_USER"


@must("5.5", "Names in snake_case are read as well, as ProtoJSON wants it", *NEW)
async def test_snake_case_is_read(speaker: Speaker) -> None:
    said = {
        "message_id": "m",
        "role": "ROLE_USER",
        "context_id": "talk",
        "parts": [{"raw": "AA", "media_type": "a/b"}],
    }
    asked = {"message": said, "configuration": {"return_immediately": True, "history_length": 1}}
    task = (await speaker.answer("send", asked))["task"]
    assert task["contextId"] == "talk"
    assert task["history"][0]["parts"] == [{"raw": "AA==", "mediaType": "a/b"}]
    assert (await speaker.tasks(page_size=1, context_id="talk"))["pageSize"] == 1


@must(
    "5.5", "Enums are read as numbers as well, and null as if it were left out, as ProtoJSON wants it", *NEW
)
async def test_other_spellings(speaker: Speaker) -> None:
    said = {**speaker.message(), "role": 1, "contextId": None, "metadata": None, "extensions": None}
    said["parts"] = [{"text": "a", "raw": None, "url": None, "filename": None}]
    asked = {"message": said, "configuration": {"returnImmediately": True, "historyLength": None}}
    task = (await speaker.answer("send", asked))["task"]
    assert task["history"][0]["role"] == "ROLE_USER"
    assert task["history"][0]["parts"] == [{"text": "a"}]


@must("5.5", "An enum's name that does not exist is refused", *NEW)
async def test_unknown_enums(speaker: Speaker) -> None:
    for name in ("ROLE_BOSS", "user", "ROLE_UNSPECIFIED", 7, True):
        assert (await refused(speaker.send(role=name))).name == "INVALID_PARAMS"


@must("5.5", "Base64 is read in both alphabets, with and without padding", *NEW)
async def test_base64(speaker: Speaker) -> None:
    parts = [{"raw": text} for text in ("+/8=", "-_8=", "-_8", "")]
    assert await kept(speaker, parts) == [{"raw": "+/8="}] * 3 + [{"raw": ""}]
    for wrong in ("a", "a b=", "ü", 1):
        assert (await refused(speaker.send(parts=[{"raw": wrong}]))).name == "INVALID_PARAMS"


@should("5.7", "Members that nobody knows are ignored, at any depth", *NEW)
async def test_unknown_members(speaker: Speaker) -> None:
    asked = speaker.sending(unknown={"x": 1}, parts=[{"text": "a", "new": [1]}])
    asked |= {"future": True}
    asked["configuration"]["future"] = {}
    task = (await speaker.answer("send", asked))["task"]
    assert task["history"][0]["parts"] == [{"text": "a"}]
    assert "unknown" not in task["history"][0]


@must("5.6.1", "Timestamps are UTC, ISO 8601, with milliseconds and Z", *NEW)
async def test_timestamps(echoing: Speaker) -> None:
    async with echoing.stream("hi") as events:
        said = await events.rest()
    stamps = [event.body["status"]["timestamp"] for event in said if event.kind != "artifactUpdate"]
    stamps.append((await echoing.get(said[0].body["id"]))["status"]["timestamp"])
    assert all(STAMP.fullmatch(stamp) for stamp in stamps)
    assert stamps == sorted(stamps)
    assert told(said)[-1] == "COMPLETED"


@must("5.7", "Members without a value are left out, and required ones never are", *NEW)
async def test_empty_members_are_left_out(speaker: Speaker) -> None:
    task = await speaker.send()
    assert set(task) == {"id", "contextId", "status", "history"}
    assert set(task["history"][0]) == {"messageId", "role", "parts", "contextId", "taskId"}
    assert set(task["history"][0]["parts"][0]) == {"text"}


@must("5.5", "An answer has no `kind`: the member's name tells what it is", *NEW)
async def test_there_is_no_kind(speaker: Speaker) -> None:
    result = await speaker.answer("send", at_once())
    assert "kind" not in names(result)
