"""The card: one document for both versions, cacheable; and the probes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.compat.v0_3.types import AgentCard as AgentCard03
from a2a.types import AgentCard, StringList
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped] # its stubs are a package of their own

from api import jsonrpc, rest
from api.auth import known
from api.extensions import OURS
from perdure.agent import Agent
from perdure.errors import ConfigError, QueueUnavailable, SchemaOutdated, StorageUnavailable
from perdure.security.schemes import SCOPES
from perdure.storage.operators import WorkerBeat
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
        ("HTTP+JSON", "0.3"),
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
    for mine in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await front.http.get(path, headers={"If-None-Match": mine})
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


SECURE: dict[str, Any] = {
    "security_schemes": {
        "token": {"type": "http", "scheme": "bearer", "bearer_format": "JWT", "description": "Ask us"},
        "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
        "login": {
            "type": "oauth2",
            "flows": {
                "authorizationCode": {
                    "authorizationUrl": "https://sky.test/authorize",
                    "tokenUrl": "https://sky.test/token",
                    "scopes": {"read": "Reads the sky"},
                }
            },
        },
        "discovered": {"type": "openIdConnect", "open_id_connect_url": "https://sky.test/openid"},
        "certificate": {"type": "mutualTLS"},
    },
    "security": [{"token": []}, {"key": [], "login": ["read"]}],
}


async def test_security_is_told_in_the_words_of_both_versions() -> None:
    async with opened_front(SECURE) as front:
        card = (await front.http.get("/.well-known/agent-card.json")).json()
    old = AgentCard03.model_validate(card)
    assert old.security == SECURE["security"]
    schemes = {name: scheme.root for name, scheme in (old.security_schemes or {}).items()}
    assert (schemes["token"].type, schemes["key"].type) == ("http", "apiKey")
    assert schemes["login"].type == "oauth2"
    assert schemes["login"].flows.authorization_code
    assert (schemes["discovered"].type, schemes["certificate"].type) == ("openIdConnect", "mutualTLS")
    plain = ParseDict(card, AgentCard(), ignore_unknown_fields=True)  # as it stands
    for new in (plain, parse_agent_card(card)):  # and as the official client bends what looks like 0.3
        assert [dict(each.schemes) for each in new.security_requirements] == [
            {"token": StringList()},
            {"key": StringList(), "login": StringList(list=["read"])},
        ]
        assert new.security_schemes["token"].http_auth_security_scheme.bearer_format == "JWT"
        assert new.security_schemes["key"].api_key_security_scheme.location == "header"
        login = new.security_schemes["login"].oauth2_security_scheme.flows.authorization_code
        assert (login.token_url, login.scopes["read"]) == ("https://sky.test/token", "Reads the sky")
        discovered = new.security_schemes["discovered"].open_id_connect_security_scheme
        assert discovered.open_id_connect_url == "https://sky.test/openid"
        assert new.security_schemes["certificate"].WhichOneof("scheme") == "mtls_security_scheme"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"security": [{"token": []}]}, "security names token, which security_schemes does not have"),
        ({"security_schemes": {"a": {"type": "magic"}}}, "security_schemes.a: "),
        ({"security_schemes": {"a": {"type": "oauth2", "flows": {}}}}, "must have exactly one of"),
        (
            {"security_schemes": {"a": {"type": "oauth2", "flows": {"client_credentials": {}}}}},
            "client_credentials must have token_url",
        ),
        ({"capabilities": {"extensions": [{"uri": "urn:a, urn:b"}]}}, "capabilities.extensions.0.uri"),
        ({"extended_card": {}}, "only with capabilities.extended_agent_card"),
    ],
)
def test_a_card_that_contradicts_itself_does_not_start(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Agent.of({"name": "a", **config}, lambda messages: None)


# ---------------------------------------------------------------------- the extended card

EXTENDED = FULL | {
    "capabilities": {"extended_agent_card": True, "extensions": [{"uri": "urn:sky:units"}]},
    "extended_card": {
        "description": "Tells the weather, and makes it",
        "skills": [{"name": "rain", "description": "Makes rain"}],
        "extensions": [{"uri": "urn:sky:clouds", "required": True, "params": {"of": "ice"}}],
    },
}
CARD_METHODS = ["GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"]


@pytest.mark.parametrize("method", CARD_METHODS)
async def test_the_extended_card_is_switched_off_or_not_configured(method: str) -> None:
    for config in ({}, EXTENDED | {"capabilities": {"extended_agent_card": False}}):
        async with opened_front(config) as front:
            assert (await front.error(method))["code"] == -32004
    async with opened_front(FULL) as front:
        assert (await front.error(method))["code"] == -32007


@pytest.mark.parametrize("method", CARD_METHODS)
async def test_the_extended_card_is_not_shown_to_strangers(method: str) -> None:
    async with opened_front(EXTENDED) as front:
        refused = await front.post(method)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "rain" not in refused.text
        response = await front.http.get("/extendedAgentCard")
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert response.json()["error"]["status"] == "UNAUTHENTICATED"
        assert "rain" not in (await front.http.get("/.well-known/agent-card.json")).text


async def test_the_challenge_names_what_the_agent_takes() -> None:
    basic = {"security_schemes": {"a": {"type": "http", "scheme": "basic"}, **SECURE["security_schemes"]}}
    async with opened_front(EXTENDED | basic) as front:
        response = await front.http.get("/extendedAgentCard")
        assert response.headers["WWW-Authenticate"] == "Basic, Bearer"


async def test_an_authenticated_caller_sees_the_extended_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for binding in (jsonrpc, rest):
        monkeypatch.setattr(binding, "identify", lambda request: known("ada", SCOPES))
    async with opened_front(EXTENDED) as front:
        cards = [await front.call(method) for method in CARD_METHODS]
        cards.append((await front.http.get("/extendedAgentCard")).json())
    assert cards[0] == cards[1] == cards[2]
    new = parse_agent_card(cards[0])
    assert [skill.id for skill in new.skills] == ["forecast", "snow", "rain"]
    assert new.description == "Tells the weather, and makes it"
    assert [each.uri for each in new.capabilities.extensions] == ["urn:sky:units", OURS, "urn:sky:clouds"]
    assert new.capabilities.extensions[2].params["of"] == "ice"
    assert new.documentation_url == FULL["documentation_url"]
    assert AgentCard03.model_validate(cards[2]).name == "weather"


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


async def test_who_asks_is_told_before_he_gives_up_on_a_database_that_does_not_answer(
    front: Front, monkeypatch: Any
) -> None:
    monkeypatch.setattr("api.health.ANSWER_WITHIN", 0.0)
    monkeypatch.setattr(front.storage, "check", asyncio.Event().wait)
    assert await readiness(front) == (503, "unavailable", 1)


async def test_degraded_without_the_queue_or_workers(front: Front, monkeypatch: Any) -> None:
    monkeypatch.setattr(front.queue, "shared", True, raising=False)
    assert await readiness(front) == (200, "degraded", 1)
    monkeypatch.setattr(front.queue, "check", failing(QueueUnavailable("away")))
    assert await readiness(front) == (200, "degraded", 2)
    await front.storage.beat(WorkerBeat(worker_id="w", slots=1, running=0, version="1"))
    assert await readiness(front) == (200, "degraded", 1)
