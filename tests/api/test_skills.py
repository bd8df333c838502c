"""Skills over the wire: their schemas in both cards, and a message's data as the arguments of its function, in both versions."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.client.card_resolver import parse_agent_card
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped] # its stubs are a package of their own

from api import jsonrpc, rest
from api.auth import known
from api.extensions import OURS, SKILL_INPUTS
from perdure import skill
from perdure.agent.callables import Handler
from perdure.security.schemes import SCOPES

from .front import Front, Json, at_work, message, message03, opened_front


@skill(tags=["sky"])
def forecast(city: str, days: int = 3) -> str:
    """Tells the weather."""
    return f"{city} {days + 1}"


@skill
def shout(text: str) -> str:
    """Says it louder."""
    return text.upper()


@skill(extended=True)
def rain(litres: float) -> str:
    """Makes rain."""
    return f"{litres:.1f}"


BOTH: list[Handler] = [forecast, shout]
EXTENDED = {"capabilities": {"extended_agent_card": True}, "extended_card": {}}


def inputs(card: Json) -> Any:
    """The params of the extension, as the official client has them."""
    found = [each for each in parse_agent_card(card).capabilities.extensions if each.uri == SKILL_INPUTS]
    assert len(found) <= 1
    return MessageToDict(found[0].params)["skills"] if found else None


async def card(front: Front) -> Json:
    found: Json = (await front.http.get("/.well-known/agent-card.json")).json()
    return found


async def test_the_card_lists_functions_and_what_they_take() -> None:
    async with opened_front(handler=BOTH) as front:
        shown = await card(front)
    assert [each["id"] for each in shown["skills"]] == ["forecast", "shout"]
    assert shown["skills"][0] == {
        "id": "forecast",
        "name": "forecast",
        "description": "Tells the weather.",
        "tags": ["sky"],
    }
    assert [each["uri"] for each in shown["capabilities"]["extensions"]] == [OURS, SKILL_INPUTS]
    schemas = inputs(shown)
    assert set(schemas) == {"forecast", "shout"}
    assert schemas["forecast"]["inputSchema"]["required"] == ["city"]
    assert schemas["forecast"]["inputSchema"]["properties"]["days"] == {
        "default": 3,
        "title": "Days",
        "type": "integer",
    }


async def test_a_card_without_schemas_does_not_speak_of_them() -> None:
    async with opened_front({"skills": ["talk"]}) as front:
        assert inputs(await card(front)) is None
        headers = {"A2A-Extensions": SKILL_INPUTS}
        answer = await front.http.post(
            "/", json={"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}, headers=headers
        )
        assert "A2A-Extensions" not in answer.headers


async def test_only_the_extended_card_shows_what_is_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for binding in (jsonrpc, rest):
        monkeypatch.setattr(binding, "identify", lambda request: known("ada", SCOPES))
    async with opened_front(EXTENDED, handler=[*BOTH, rain]) as front:
        public = await card(front)
        extended = await front.call("GetExtendedAgentCard")
    assert [each["id"] for each in public["skills"]] == ["forecast", "shout"]
    assert "rain" not in str(public)
    assert [each["id"] for each in extended["skills"]] == ["forecast", "shout", "rain"]
    assert set(inputs(extended)) == {"forecast", "shout", "rain"}


async def test_extensions_are_named_in_the_answer() -> None:
    async with opened_front(handler=BOTH) as front:
        answer = await front.post("ListTasks", {}, A2A_Extensions=SKILL_INPUTS)
        assert answer.headers["A2A-Extensions"] == SKILL_INPUTS


async def test_data_becomes_arguments() -> None:
    async with opened_front(handler=BOTH) as front, at_work(front):
        new = message(parts=[{"data": {"city": "Rome", "days": 4}}], metadata={"skillId": "forecast"})
        task = (await front.call("SendMessage", {"message": new}))["task"]
        assert task["artifacts"][0]["parts"] == [{"text": "Rome 5"}]
        old = message03(parts=[{"kind": "data", "data": {"city": "Oslo"}}], metadata={"skillId": "forecast"})
        task = await front.call("message/send", {"message": old})
        assert task["artifacts"][0]["parts"] == [{"kind": "text", "text": "Oslo 4"}]


async def test_wrong_data_is_rejected_and_says_what_is_wrong() -> None:
    async with opened_front(handler=BOTH) as front, at_work(front):
        new = message(parts=[{"data": {"days": "many"}}], metadata={"skillId": "forecast"})
        status = (await front.call("SendMessage", {"message": new}))["task"]["status"]
    assert status["state"] == "TASK_STATE_REJECTED"
    text, data = status["message"]["parts"]
    assert text["text"].startswith("forecast cannot do it: city: is required; days: ")
    assert [error["field"] for error in data["data"]["errors"]] == ["city", "days"]


async def test_who_is_asked_which_skill_names_it_in_the_same_task() -> None:
    async with opened_front(handler=BOTH) as front, at_work(front):
        for answer in (("hello", {"skillId": "shout"}), ("shout", {})):
            await asked_and_answered(front, *answer)


async def asked_and_answered(front: Front, words: str, metadata: Json) -> None:
    task = (await front.call("SendMessage", {"message": message("hello")}))["task"]
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    named = message(words, taskId=task["id"], metadata=metadata)
    task = (await front.call("SendMessage", {"message": named}))["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "HELLO"}]


async def test_a_follow_up_stays_with_the_skill_and_another_task_does_not() -> None:
    @skill
    def ask(city: str, messages: list[Json]) -> str:
        """Asks twice."""
        from perdure import InputRequired

        if len(messages) < 2:
            raise InputRequired("Really?")
        return f"{city}."

    async with opened_front(handler=[ask, shout]) as front, at_work(front):
        new = message("Rome", contextId="c", metadata={"skillId": "ask"})
        task = (await front.call("SendMessage", {"message": new}))["task"]
        assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        follow_up = message("Oslo", taskId=task["id"])
        task = (await front.call("SendMessage", {"message": follow_up}))["task"]
        assert task["artifacts"][0]["parts"] == [{"text": "Oslo."}]
        other = (await front.call("SendMessage", {"message": message("x", contextId="c")}))["task"]
        assert other["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert "Which skill: ask, shout?" in other["status"]["message"]["parts"][0]["text"]
