"""Media types: what an agent does not take is refused before it is stored, and so is a caller that takes nothing of it; files and
data go through, over both bindings and versions."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from perdure.notes import ACCEPTED_OUTPUT_MODES, EXTENSIONS, REPLY, TENANT
from perdure.tasks import Artifact, DataPart, RawPart, TaskState, TextPart, UrlPart
from tests.api.front import Front, Json, message, message03, opened_front

PNG = b64encode(b"\x89PNG").decode()


def sent(*parts: Json, accepted: list[str] | None = None) -> Json:
    """A 1.0 SendMessageRequest that does not wait."""
    configuration: Json = {"returnImmediately": True}
    if accepted is not None:
        configuration["acceptedOutputModes"] = accepted
    return {"message": message() | {"parts": list(parts) or [{"text": "x"}]}, "configuration": configuration}


def sent03(*parts: Json, accepted: list[str] | None = None) -> Json:
    """MessageSendParams of 0.3 that do not wait."""
    configuration: Json = {"blocking": False}
    if accepted is not None:
        configuration["acceptedOutputModes"] = accepted
    parts = parts or ({"kind": "text", "text": "x"},)
    return {"message": message03() | {"parts": list(parts)}, "configuration": configuration}


async def refused(front: Front, method: str, params: Json) -> str:
    """The text of the refusal, the same in every form; nothing is stored."""
    if method == "message/stream":  # whose errors are frames
        async with front.live(method, params) as client:
            (frame,) = await client.rest()
        error = frame.data["error"]
    else:
        error = await front.error(method, params, A2A_Version="0.3" if "/" in method else "1.0")
    assert error["code"] == -32005
    if "/" not in method:
        assert error["data"][0]["reason"] == "CONTENT_TYPE_NOT_SUPPORTED"
        path = {"SendMessage": "/message:send", "SendStreamingMessage": "/message:stream"}[method]
        response = await front.http.post(path, json=params)
        assert response.status_code == 400
        assert response.json()["error"]["message"] == error["message"]
    assert await front.stored() == 0
    text: str = error["message"]
    return text


async def accepted(front: Front, params: Json) -> None:
    """Over JSON-RPC and REST."""
    await front.call("SendMessage", params)
    (await front.http.post("/message:send", json=params)).raise_for_status()


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"raw": PNG, "mediaType": "image/png"}, "image/png"),
        ({"raw": PNG, "filename": "a.png"}, "image/png"),
        ({"url": "https://files.test/a.pdf?x=1"}, "application/pdf"),
        ({"text": "<p>", "mediaType": "Text/HTML; charset=utf-8"}, "text/html"),
        ({"data": {}, "mediaType": "application/geo+json"}, "application/geo+json"),
    ],
)
async def test_what_the_agent_does_not_take_is_refused(
    front: Front, method: str, part: Json, found: str
) -> None:
    text = await refused(front, method, sent({"text": "look"}, part))
    assert text == f"message.parts[1] is {found}; this agent takes text/plain, application/json"


@pytest.mark.parametrize("method", ["message/send", "message/stream"])
@pytest.mark.parametrize(
    "file", [{"bytes": PNG, "mimeType": "image/png"}, {"uri": "https://files.test/a.png"}]
)
async def test_what_the_agent_does_not_take_is_refused_in_0_3(front: Front, method: str, file: Json) -> None:
    assert "image/png" in await refused(front, method, sent03({"kind": "file", "file": file}))


@pytest.mark.parametrize(
    "part",
    [
        {"text": "x"},
        {"text": "x", "mediaType": "TEXT/plain; charset=utf-8"},
        {"data": None},
        {"raw": b64encode(b"x").decode(), "filename": "a.txt"},
        {"url": "https://files.test/a.json"},
        {"url": "https://files.test/unknown"},
        {"raw": PNG},
    ],
)
async def test_what_the_agent_takes_is_accepted(front: Front, part: Json) -> None:
    await accepted(front, sent(part))


@pytest.mark.parametrize("mode", ["*/*", "image/*", "image/png", "file", "*"])
async def test_modes_may_stand_for_many(mode: str) -> None:
    async with opened_front({"default_input_modes": [mode]}) as front:
        await accepted(front, sent({"raw": PNG, "mediaType": "image/png"}))


@pytest.mark.parametrize("extended", [False, True])
async def test_a_skill_has_modes_of_its_own(extended: bool) -> None:
    skill: Json = {
        "id": "see",
        "name": "see",
        "description": "",
        "tags": [],
        "input_modes": ["image/png"],
        "output_modes": ["audio/mpeg"],
    }
    config: Json = {"skills": [skill]}
    if extended:
        config = {"capabilities": {"extended_agent_card": True}, "extended_card": config}
    async with opened_front(config) as front:
        await accepted(front, sent({"raw": PNG, "mediaType": "image/png"}, accepted=["audio/*"]))


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_a_caller_that_takes_nothing_of_what_the_agent_gives_is_refused(
    front: Front, method: str
) -> None:
    text = await refused(front, method, sent(accepted=["image/png", "video/*"]))
    assert text == "this agent gives text/plain, application/json, and nothing of it is accepted"


async def test_a_caller_of_0_3_that_takes_nothing_of_what_the_agent_gives_is_refused(front: Front) -> None:
    await refused(front, "message/send", sent03(accepted=["image/png"]))


@pytest.mark.parametrize(
    "modes", [[], [""], ["image/png", "text/plain"], ["text"], ["*/*"], ["text/*"], ["data"]]
)
async def test_a_caller_that_takes_some_of_it_is_accepted(front: Front, modes: list[str]) -> None:
    await accepted(front, sent(accepted=modes))
    await front.call("message/send", sent03(accepted=modes))


@pytest.mark.parametrize(("method", "form"), [("SendMessage", sent), ("message/send", sent03)])
async def test_the_handler_is_told_what_its_caller_accepts(front: Front, method: str, form: Any) -> None:
    params = form(accepted=["text/markdown", "text/plain"])
    params["message"]["metadata"] = {"mine": 1}
    await front.call(method, params)
    told = (await front.takes()).conversation[-1].metadata
    assert told == {"mine": 1, ACCEPTED_OUTPUT_MODES: ["text/markdown", "text/plain"]}


FORGED: Json = {
    "mine": 1,
    ACCEPTED_OUTPUT_MODES: ["text/csv"],
    EXTENSIONS: ["urn:other"],
    TENANT: "somebody else's",
    REPLY: True,
}


async def test_only_the_handler_is_told(front: Front) -> None:
    params = sent(accepted=["text/plain"])
    params["message"] |= {"metadata": {"mine": 1}, "contextId": "c"}
    task = (await front.call("SendMessage", params))["task"]
    name = {"id": task["id"]}
    async with front.live("SubscribeToTask", name) as client:
        snapshot = (await client.result())[1]["task"]
    (context,) = (await front.call("contexts/get", {"contextId": "c"}, A2A_Version="1.0"))["messages"]
    told = [
        shown["history"][0]
        for shown in (
            task,
            snapshot,
            await front.call("GetTask", name),
            (await front.call("ListTasks", {}))["tasks"][0],
            await front.call("tasks/get", name),
            (await front.http.get(f"/v1/tasks/{task['id']}")).json(),
        )
    ]
    assert [said["metadata"] for said in (*told, context)] == [{"mine": 1}] * 7
    assert (await front.takes()).conversation[-1].metadata[ACCEPTED_OUTPUT_MODES] == ["text/plain"]


@pytest.mark.parametrize("accepted", [None, ["text/plain"]])
async def test_nobody_can_forge_what_its_caller_accepts(front: Front, accepted: list[str] | None) -> None:
    params = sent(accepted=accepted) | {"metadata": FORGED}
    params["message"]["metadata"] = FORGED
    task = (await front.call("SendMessage", params))["task"]
    assert (task["metadata"], task["history"][0]["metadata"]) == ({"mine": 1}, {"mine": 1})
    noted = {} if accepted is None else {ACCEPTED_OUTPUT_MODES: accepted}
    turn = await front.takes()
    assert turn.conversation[-1].metadata == {"mine": 1, **noted}
    await front.ends(turn, state=TaskState.INPUT_REQUIRED)
    del params["message"]["metadata"]
    params["message"] |= {"taskId": task["id"], "messageId": "next"}
    await front.call("SendMessage", params)
    assert (await front.takes()).conversation[-1].metadata == {"mine": 1, **noted}


async def test_files_and_data_go_in_and_out() -> None:
    """Addresses are passed through, never fetched."""
    parts: list[Json] = [
        {"raw": PNG, "filename": "a.png", "mediaType": "image/png"},
        {"url": "https://files.test/b.pdf", "mediaType": "application/pdf"},
        {"data": [1, {"two": None}]},
    ]
    taken = (
        RawPart(b"\x89PNG", filename="a.png", media_type="image/png"),
        UrlPart("https://files.test/b.pdf", media_type="application/pdf"),
        DataPart([1, {"two": None}]),
    )
    async with opened_front({"default_input_modes": ["*/*"], "default_output_modes": ["*/*"]}) as front:
        task_id = (await front.call("SendMessage", sent(*parts)))["task"]["id"]
        turn = await front.takes()
        assert turn.conversation[-1].parts == taken
        whole = Artifact(artifact_id="all", parts=(*taken, TextPart("# hi", media_type="text/markdown")))
        await front.ends(turn, state=TaskState.COMPLETED, new_artifacts=[whole])
        task = await front.call("GetTask", {"id": task_id})
        assert task["artifacts"][0]["parts"] == [*parts, {"text": "# hi", "mediaType": "text/markdown"}]
        assert (await front.http.get(f"/tasks/{task_id}")).json()["artifacts"] == task["artifacts"]
        old = await front.call("tasks/get", {"id": task_id})
        assert old["artifacts"][0]["parts"][:2] == [
            {"kind": "file", "file": {"bytes": PNG, "name": "a.png", "mimeType": "image/png"}},
            {"kind": "file", "file": {"uri": "https://files.test/b.pdf", "mimeType": "application/pdf"}},
        ]


async def test_a_file_that_is_too_large_is_refused() -> None:
    async with opened_front({"default_input_modes": ["*/*"]}, max_body_bytes=10_000) as front:
        large = sent({"raw": "A" * 12_000, "mediaType": "image/png"})
        assert (await front.http.post("/message:send", json=large)).status_code == 413
        assert await front.stored() == 0
