"""What goes in comes out, whatever it is, and nobody can change it afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.storage import Storage
from perdure.tasks import Artifact, DataPart, Message, Part, RawPart, Role, TextPart, UrlPart
from tests.support.stories import (
    ME,
    answers,
    artifact,
    claim,
    id_of,
    load,
    log,
    says,
    settle,
    started,
    submit,
)

ODD_TEXTS = [
    "",
    " \t\r\n",
    "👩‍👩‍👧‍👦 emoji",
    "line\u2028separator\u2029",
    "\x01\x1f\x7f control",
    "e\u0301 and é",
    "\ufeffbom \uffff \U0010ffff",
    "back\\slash \"quote\" 'single' %s $1 {} \\u0000",
    "עברית العربية",
    "x" * 1_000_000,
]
ODD_DATA: list[Any] = [
    None,
    False,
    0,
    "",
    [],
    {},
    [None, [None], {"": None}],
    {"a": {"b": [1, 2.5, -3e-7, True]}},
    2**53 + 1,
    -(2**63),
    0.1,
    1e300,
    "text",
    {"\u2028": "👍", "a.b": {"$ref": 1}},
]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
async def test_odd_texts_come_back(storage: Storage, text: str) -> None:
    turn = await started(storage, text, metadata={"k": text})
    await settle(storage, turn, status_message=answers(text), new_artifacts=[artifact(text)])
    task = await load(storage, turn)
    assert task.status_message is not None
    said = [task.history[0].text, task.status_message.text, task.artifacts[0].text, task.metadata["k"]]
    assert said == [text] * 4


@pytest.mark.parametrize("data", ODD_DATA, ids=range(len(ODD_DATA)))
async def test_odd_data_come_back(storage: Storage, data: Any) -> None:
    message = Message(parts=(DataPart(data),), role=Role.USER)
    accepted = await submit(storage, message=message)
    (part,) = (await load(storage, accepted)).history[0].parts
    assert isinstance(part, DataPart)
    assert part.data == data
    assert type(part.data) is type(data)


PARTS: list[Part] = [
    TextPart("t", metadata={"lang": "de", "n": {"m": [1]}}, filename="f", media_type="text/plain"),
    RawPart(b"", media_type="application/octet-stream"),
    RawPart(bytes(range(256)), filename="all.bin"),
    RawPart(b"\x00\xff" * 1_000_000),
    UrlPart("https://example.com/ä?q=1#f", media_type="image/png"),
    DataPart({"k": None}, metadata={"m": 1}),
]


@pytest.mark.parametrize("part", PARTS, ids=range(len(PARTS)))
async def test_parts_come_back(storage: Storage, part: Part) -> None:
    message = Message(
        parts=(part, part),
        role=Role.USER,
        message_id="m-1",
        metadata={"k": [1, {"n": None}]},
        extensions=("urn:a", "urn:b"),
        reference_task_ids=("t-1",),
    )
    accepted = await submit(storage, message=message)
    (kept,) = (await load(storage, accepted)).history
    assert (tuple(kept.parts), kept.metadata) == ((part, part), message.metadata)
    assert (tuple(kept.extensions), tuple(kept.reference_task_ids)) == (("urn:a", "urn:b"), ("t-1",))
    turn = await claim(storage)
    assert turn.conversation == (kept,)


@pytest.mark.parametrize("text", ["NUL \x00", "surrogate \ud800"], ids=["nul", "surrogate"])
async def test_what_cannot_be_stored_is_refused_whole(storage: Storage, text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        await submit(storage, text)
    turn = await started(storage)
    before = await log(storage, turn)
    with pytest.raises(ValueError, match=r"\S"):
        await storage.update_task(
            turn.claim, 1, new_messages=[answers("fine"), answers(text)], metadata={"k": 1}
        )
    with pytest.raises(ValueError, match=r"\S"):
        await storage.update_task(turn.claim, 1, metadata={"k": text})
    with pytest.raises(ValueError, match=r"\S"):
        await storage.continue_task(ME, id_of(turn), says(text))
    assert await log(storage, turn) == before
    assert (await load(storage, turn)).metadata == {}
    await settle(storage, turn)


async def test_what_was_handed_in_can_be_changed_without_effect(storage: Storage) -> None:
    metadata: dict[str, Any] = {"k": [1]}
    data: dict[str, Any] = {"d": [1]}
    part_metadata: dict[str, Any] = {"p": [1]}
    parts: list[Part] = [DataPart(data, metadata=part_metadata)]
    message = Message(parts=parts, role=Role.USER, metadata=metadata)
    turn = await started(storage, context="third")
    accepted = await submit(storage, message=message, metadata=metadata, context="other")
    await storage.update_task(
        turn.claim, 1, new_messages=[message], new_artifacts=[Artifact(parts=parts)], metadata=metadata
    )
    await storage.update_context(ME, "third", metadata)
    await storage.store_feedback(ME, id_of(turn), text="x", metadata=metadata)
    for value in (metadata["k"], data["d"], part_metadata["p"]):
        value.append("changed")
    parts.clear()
    task, other = await load(storage, accepted), await load(storage, turn)
    (feedback,) = await storage.load_feedback(ME, id_of(turn))
    context = await storage.load_context(ME, "third")
    assert task.metadata == other.metadata == feedback.metadata == context.metadata == {"k": [1]}
    for (part,) in (task.history[0].parts, other.history[1].parts, other.artifacts[0].parts):
        assert part == DataPart({"d": [1]}, metadata={"p": [1]})


async def test_what_was_handed_out_can_be_changed_without_effect(storage: Storage) -> None:
    def spoil(value: Any) -> None:
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            if isinstance(item, dict | list):
                spoil(item)
        value.clear()

    message = Message(parts=(DataPart({"d": [1]}),), role=Role.USER, metadata={"k": [1]})
    accepted = await submit(storage, message=message, metadata={"k": [1]})
    turn = await claim(storage)
    await storage.append_messages(ME, "talk", [message])
    await storage.update_context(ME, "talk", {"k": [1]})
    await storage.store_feedback(ME, id_of(turn), text="x", metadata={"k": [1]})
    before = (await load(storage, turn), await log(storage, turn), await storage.load_context(ME, "talk"))
    (feedback,) = await storage.load_feedback(ME, id_of(turn))
    messages = [accepted.task.history[0], *turn.conversation, *turn.task.history]
    for handed_out in [*messages, *(await load(storage, turn)).history]:
        spoil(handed_out.metadata)
        spoil(handed_out.parts[0].data)  # type: ignore[union-attr]
    for holder in (
        accepted.task,
        turn.task,
        feedback,
        await load(storage, turn),
        await storage.load_context(ME, "talk"),
        (await storage.load_context(ME, "talk")).messages[-1],
        (await log(storage, turn))[0].body,
    ):
        spoil(holder.metadata)  # type: ignore[union-attr]
    after = (await load(storage, turn), await log(storage, turn), await storage.load_context(ME, "talk"))
    assert after == before
    assert (await storage.load_feedback(ME, id_of(turn)))[0].metadata == {"k": [1]}
