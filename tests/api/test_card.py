"""The card: one document for both versions, cacheable; and the probes."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.compat.v0_3.types import AgentCard as AgentCard03

from perdure.errors import QueueUnavailable, SchemaOutdated, StorageUnavailable
from perdure.storage import WorkerBeat
from tests.api.front import Front, opened_front

FULL = {
    "name": "weather",
    "description": "Tells the weather",
    "version": "2.1.0",
    "deployment": {"url": "https://weather.test/agent"},
    "skills": [
        {"name": "forecast", "description": "Tomorrow", "tags": ["sky"], "examples": ["Rain?"]},
        "snow",
    ],
    "capabilities": {"push_notifications": True, "extended_agent_card": True},
    "provider": {"organization": "Sky Ltd", "url": "https://sky.test"},
    "documentation_url": "https://sky.test/docs",
    "icon_url": "https://sky.test/icon.png",
    "default_input_modes": ["text/plain"],
}


@pytest.mark.parametrize("path", ["/.well-known/agent-card.json", "/.well-known/agent.json"])
async def test_one_document_is_a_card_of_both_versions(path: str) -> None:
    async with opened_front(FULL) as front:
        response = await front.http.get(path)
    card = response.json()
    old = AgentCard03.model_validate(card)
    assert (old.name, old.protocol_version, old.preferred_transport) == ("weather", "0.3.0", "JSONRPC")
    assert old.url == "https://weather.test/agent"
    assert old.supports_authenticated_extended_card
    new = parse_agent_card(card)
    assert [(each.protocol_binding, each.protocol_version) for each in new.supported_interfaces] == [
        ("JSONRPC", "1.0"),
        ("HTTP+JSON", "1.0"),
        ("JSONRPC", "0.3"),
    ]
    assert {each.url for each in new.supported_interfaces} == {"https://weather.test/agent"}
    assert (new.version, new.provider.organization, new.icon_url) == ("2.1.0", "Sky Ltd", FULL["icon_url"])
    assert new.capabilities.streaming
    assert new.capabilities.push_notifications
    assert new.capabilities.extended_agent_card
    assert [(skill.id, skill.name, list(skill.tags)) for skill in new.skills] == [
        ("forecast", "forecast", ["sky"]),
        ("snow", "snow", ["snow"]),
    ]
    assert list(new.default_input_modes) == ["text/plain"]


async def test_required_members_are_there_even_with_the_smallest_config(front: Front) -> None:
    card = (await front.http.get("/.well-known/agent-card.json")).json()
    required = {"name", "description", "version", "capabilities", "supportedInterfaces", "skills"}
    assert required | {"defaultInputModes", "defaultOutputModes", "protocolVersion", "url"} <= set(card)


async def test_a_card_is_not_sent_again_to_whoever_has_it(front: Front) -> None:
    path = "/.well-known/agent-card.json"
    first = await front.http.get(path)
    etag = first.headers["ETag"]
    assert "max-age=" in first.headers["Cache-Control"]
    assert first.headers["Last-Modified"].endswith("GMT")
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await front.http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
    assert (await front.http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
    head = await front.http.head(path)
    assert (head.status_code, head.headers["ETag"]) == (200, etag)


async def test_the_same_config_has_the_same_etag_on_every_front_door() -> None:
    async with opened_front(FULL) as one, opened_front(FULL) as other:
        tags = [
            (await front.http.get("/.well-known/agent-card.json")).headers["ETag"] for front in (one, other)
        ]
    assert tags[0] == tags[1]


@pytest.mark.parametrize("method", ["GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"])
async def test_the_extended_card(method: str) -> None:
    async with opened_front() as front:
        assert (await front.error(method))["code"] == -32004
    async with opened_front(FULL) as front:
        assert (await front.error(method))["code"] == -32007


# ---------------------------------------------------------------------- probes


async def readiness(front: Front) -> tuple[int, str, int]:
    response = await front.http.get("/readyz")
    return response.status_code, response.json()["status"], len(response.json()["reasons"])


async def test_ready(front: Front) -> None:
    assert await readiness(front) == (200, "ready", 0)
    assert (await front.http.get("/healthz")).status_code == 200


def failing(error: Exception) -> Any:
    async def fail() -> None:
        raise error

    return fail


async def test_not_ready_without_the_storage(front: Front, monkeypatch: Any) -> None:
    monkeypatch.setattr(front.storage, "check", failing(StorageUnavailable("10.0.0.1 refused")))
    assert await readiness(front) == (503, "unavailable", 1)
    assert "10.0.0.1" not in (await front.http.get("/readyz")).text
    monkeypatch.setattr(front.storage, "check", failing(SchemaOutdated("run perdure migrate")))
    assert (await front.http.get("/readyz")).json()["reasons"] == ["run perdure migrate"]
    assert (await front.http.get("/healthz")).status_code == 200


async def test_degraded_without_the_queue_or_workers(front: Front, monkeypatch: Any) -> None:
    monkeypatch.setattr(front.queue, "shared", True, raising=False)
    assert await readiness(front) == (200, "degraded", 1)
    monkeypatch.setattr(front.queue, "check", failing(QueueUnavailable("away")))
    assert await readiness(front) == (200, "degraded", 2)
    await front.storage.beat(WorkerBeat(worker_id="w", slots=1, running=0, version="1"))
    assert await readiness(front) == (200, "degraded", 1)
