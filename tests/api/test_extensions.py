"""A2A extensions: declared in the card, required of requests, echoed in answers."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.client.card_resolver import parse_agent_card

from api.extensions import OURS
from api.jsonrpc import METHODS
from perdure.agent import Turn
from perdure.notes import EXTENSIONS, TENANT
from perdure.tasks import TaskState
from tests.api.front import Front, Live, at_once, at_work, message, message03, opened_front

UNITS, TRACE = "urn:sky:units", "https://sky.test/extensions/trace"
CONFIG = {
    "capabilities": {
        "extensions": [
            {"uri": UNITS, "description": "Degrees", "required": True, "params": {"scale": "K"}},
            {"uri": TRACE},
        ]
    }
}


async def test_the_card_declares_them_and_ours() -> None:
    async with opened_front(CONFIG) as front:
        card = (await front.http.get("/.well-known/agent-card.json")).json()
    units, trace, ours = card["capabilities"]["extensions"]
    assert units == {"uri": UNITS, "description": "Degrees", "required": True, "params": {"scale": "K"}}
    assert trace == {"uri": TRACE}
    assert ours["uri"] == OURS == "urn:perdure:a2a:operations:v1"
    assert "required" not in ours
    assert [each.uri for each in parse_agent_card(card).capabilities.extensions] == [UNITS, TRACE, OURS]


async def test_our_extension_lists_the_methods_that_are_no_part_of_a2a(front: Front) -> None:
    card = (await front.http.get("/.well-known/agent-card.json")).json()
    [ours] = card["capabilities"]["extensions"]
    assert ours["params"]["methods"] == [
        "contexts/clear",
        "contexts/get",
        "contexts/list",
        "tasks/feedback",
        "tasks/list",
        "webhooks/attempts",
        "webhooks/deliveries",
        "webhooks/enable",
        "webhooks/replay",
    ]
    for method in ours["params"]["methods"]:
        assert METHODS[method].dialect is None
        assert (await front.post(method, {})).json().get("error", {}).get("code") != -32601


@pytest.mark.parametrize("named", [{}, {"A2A_Extensions": ""}, {"A2A_Extensions": f"{TRACE}, urn:other"}])
async def test_without_a_required_one_nothing_is_done(named: dict[str, str]) -> None:
    async with opened_front(CONFIG) as front:
        error = await front.error("SendMessage", at_once(), **named)
        assert error["code"] == -32008
        assert error["data"][0]["reason"] == "EXTENSION_SUPPORT_REQUIRED"
        assert UNITS in error["message"]
        headers = {name.replace("_", "-"): value for name, value in named.items()}
        response = await front.http.post("/message:send", json=at_once(), headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["details"][0]["reason"] == "EXTENSION_SUPPORT_REQUIRED"
        stream = await front.http.post("/message:stream", json={"message": message()}, headers=headers)
        assert stream.status_code == 400
        old = await front.error("message/send", {"message": message03()}, **named)
        assert old["code"] == -32603  # 0.3 has no other
        assert UNITS in old["message"]
        assert await front.stored() == 0


async def test_probes_and_the_card_require_nothing() -> None:
    async with opened_front(CONFIG) as front:
        for path in ("/healthz", "/readyz", "/.well-known/agent-card.json"):
            assert (await front.http.get(path)).status_code == 200


async def test_the_activated_ones_are_echoed() -> None:
    named = f"{UNITS},  urn:other,{OURS} ,{UNITS}"
    active = f"{UNITS}, {OURS}"
    async with opened_front(CONFIG) as front:
        answer = await front.post("SendMessage", at_once(), A2A_Extensions=named)
        assert answer.headers["A2A-Extensions"] == active
        assert "X-A2A-Extensions" not in answer.headers
        old = {"message": message03(), "configuration": {"blocking": False}}
        answer = await front.post("message/send", old, X_A2A_Extensions=named)
        assert answer.headers["X-A2A-Extensions"] == active
        # The official client sends both to servers of 0.3.
        answer = await front.post("message/send", old, A2A_Extensions=UNITS, X_A2A_Extensions=UNITS)
        assert answer.headers["A2A-Extensions"] == answer.headers["X-A2A-Extensions"] == UNITS
        response = await front.http.get(
            "/tasks", headers=[("A2A-Extensions", UNITS), ("A2A-Extensions", TRACE)]
        )
        assert response.headers["A2A-Extensions"] == f"{UNITS}, {TRACE}"


@pytest.mark.parametrize("method", ["SendStreamingMessage", "message/stream"])
async def test_streams_echo_as_well(front: Front, method: str) -> None:
    said: Any = message() if method == "SendStreamingMessage" else message03()
    async with front.live(method, {"message": said}, A2A_Extensions=OURS) as live:
        await live.starts()
        assert live.headers["a2a-extensions"] == OURS
    async with Live(
        front.app, "POST", "/message:stream", {"message": message()}, {"A2A-Extensions": OURS}
    ) as live:
        await live.starts()
        assert live.headers["a2a-extensions"] == OURS


async def test_nothing_is_echoed_to_whoever_names_nothing_that_is_known(front: Front) -> None:
    for named in ({}, {"A2A_Extensions": "urn:other"}):
        assert "A2A-Extensions" not in (await front.post("SendMessage", at_once(), **named)).headers


async def told(front: Front) -> Any:
    """What the handler of the next turn is told of the request."""
    metadata = (await front.takes()).conversation[-1].metadata
    return metadata.get(EXTENSIONS), metadata.get(TENANT)


async def test_the_agent_is_told_of_the_activated_ones() -> None:
    names = {"A2A_Extensions": f"{UNITS}, urn:other", "X_A2A_Extensions": f"{TRACE},{UNITS}"}
    headers = {name.replace("_", "-"): value for name, value in names.items()}
    old = {"message": message03(), "configuration": {"blocking": False}}
    async with opened_front(CONFIG) as front:
        await front.call("SendMessage", at_once(), **names)
        assert await told(front) == ([UNITS, TRACE], None)
        await front.call("message/send", old, **names)
        assert await told(front) == ([UNITS, TRACE], None)
        for path, body in (("/message:send", at_once()), ("/v1/message:send", old)):
            assert (await front.http.post(path, json=body, headers=headers)).status_code == 200
            assert await told(front) == ([UNITS, TRACE], None)
        async with front.live("SendStreamingMessage", {"message": message()}, **names) as live:
            await live.result()
            assert await told(front) == ([UNITS, TRACE], None)


async def test_of_a_follow_up_its_own_are_told() -> None:
    """They belong to the request, not to the task."""
    async with opened_front(CONFIG) as front:
        params = {"tenant": "acme", **at_once()}
        task = (await front.call("SendMessage", params, A2A_Extensions=f"{UNITS},{TRACE}"))["task"]
        turn = await front.takes()
        assert turn.conversation[-1].metadata == {EXTENSIONS: [UNITS, TRACE], TENANT: "acme"}
        await front.ends(turn, state=TaskState.INPUT_REQUIRED)
        follow_up = at_once(taskId=task["id"])
        task = (await front.call("SendMessage", follow_up, A2A_Extensions=UNITS))["task"]
        assert all("metadata" not in said for said in task["history"])
        assert await told(front) == ([UNITS], None)


async def test_the_agent_is_told_of_the_tenant(front: Front) -> None:
    await front.call("SendMessage", {"tenant": "acme", **at_once()})
    assert await told(front) == (None, "acme")
    for path, body, tenant in (
        ("/acme/message:send", at_once(), "acme"),
        ("/acme/message:send", {"tenant": "other", **at_once()}, "acme"),  # the path has the last word
        ("/message:send", {"tenant": "Ä b", **at_once()}, "Ä b"),
        ("/message:send", at_once(), None),
    ):
        assert (await front.http.post(path, json=body)).status_code == 200
        assert await told(front) == (None, tenant)
    wrong = await front.error("SendMessage", {"tenant": 1, **at_once()})
    assert (wrong["code"], wrong["data"][1]["fieldViolations"][0]["field"]) == (-32602, "tenant")


async def test_a_handler_reads_both() -> None:
    def handler(messages: Any, turn: Turn) -> Any:
        return {"extensions": turn.extensions, "tenant": turn.tenant}

    async with opened_front(CONFIG, handler=handler) as front, at_work(front):
        asked = {"message": message(), "tenant": "acme"}
        task = (await front.call("SendMessage", asked, A2A_Extensions=UNITS))["task"]
    assert task["artifacts"][0]["parts"] == [{"data": {"extensions": [UNITS], "tenant": "acme"}}]
