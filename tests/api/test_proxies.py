"""Identities that a proxy vouches for: worth something from the proxy's own address, and nothing from anybody else's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from perdure.settings import AuthSettings
from tests.api.front import URL, Front, at_once, opened_front
from tests.api.test_authentication import key_for

HEADER = "X-Client-Cert-Subject"
SUBJECT = "CN=ada,O=Engines"


def behind(addresses: str, **more: Any) -> AuthSettings:
    return AuthSettings(proxy_addresses=addresses, **more)


async def asked(front: Front, peer: tuple[str, int] | None, *names: str, **headers: str) -> httpx.Response:
    """A send over a connection from `peer`, with these values of the header."""
    transport = httpx.ASGITransport(front.app, client=peer)  # type: ignore[arg-type] # None is a local socket
    async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
        said = [(HEADER, name) for name in names] + [
            (name.replace("_", "-"), text) for name, text in headers.items()
        ]
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": at_once()}
        return await http.post("/", json=body, headers=said)


@pytest.mark.parametrize(
    ("addresses", "peer"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.0.0/8, 192.168.0.0/16", "192.168.3.4"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("fd00::/8", "fd00::1"),
    ],
)
async def test_the_word_of_a_proxy_counts(addresses: str, peer: str) -> None:
    async with opened_front(auth=behind(addresses)) as front:
        response = await asked(front, (peer, 1), SUBJECT)
        task = UUID(response.json()["result"]["task"]["id"])
        assert (await front.storage.load_task(f"mtls|{SUBJECT}", task)).owner == f"mtls|{SUBJECT}"


@pytest.mark.parametrize(
    "peer", [("10.0.0.8", 1), ("::1", 1), ("127.0.0.1", 1), ("::ffff:11.0.0.1", 1), None]
)
async def test_the_same_header_from_anybody_else_is_worth_nothing(peer: Any) -> None:
    async with opened_front(auth=behind("10.0.0.7")) as front:
        for headers in ({}, {"X_Forwarded_For": "10.0.0.7"}, {"Forwarded": "for=10.0.0.7"}):
            response = await asked(front, peer, SUBJECT, **headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="perdure"'
        assert await front.stored() == 0


@pytest.mark.parametrize("names", [(), ("",), (" ",), (SUBJECT, "CN=eve"), ("", SUBJECT), ("n" * 513,)])
async def test_a_proxy_has_to_name_one_client(names: tuple[str, ...]) -> None:
    async with opened_front(auth=behind("10.0.0.7")) as front:
        assert (await asked(front, ("10.0.0.7", 1), *names)).status_code == 401


async def test_a_key_goes_before_the_word_of_a_proxy() -> None:
    async with opened_front(auth=behind("10.0.0.7", api_keys=True)) as front:
        key = await key_for(front.storage)
        response = await asked(front, ("10.0.0.7", 1), SUBJECT, X_API_Key=key)
        task = UUID(response.json()["result"]["task"]["id"])
        assert (await front.storage.load_task("ada", task)).owner == "ada"
        assert (await asked(front, ("10.0.0.7", 1), SUBJECT, X_API_Key="wrong")).status_code == 401


async def test_what_they_may_do_is_a_setting() -> None:
    async with opened_front(auth=behind("10.0.0.7", proxy_scopes="read")) as front:
        assert (await asked(front, ("10.0.0.7", 1), SUBJECT)).status_code == 403


async def test_another_header_may_be_the_proxys() -> None:
    async with opened_front(auth=behind("10.0.0.7", proxy_header="X-SSL-Client")) as front:
        assert (await asked(front, ("10.0.0.7", 1), SUBJECT)).status_code == 401
        assert (await asked(front, ("10.0.0.7", 1), X_SSL_Client=SUBJECT)).status_code == 200


async def test_the_card_declares_every_way_in() -> None:
    auth = AuthSettings(
        api_keys=True,
        jwt_issuer="https://one.test",
        jwks_url="https://one.test/jwks",
        oidc_issuer="https://two.test/",
        jwt_audience="us",
        proxy_addresses="10.0.0.7",
    )
    async with opened_front(auth=auth) as front:
        card = (await front.http.get("/.well-known/agent-card.json")).json()
        document = (await front.http.get("/openapi.json")).json()
    kinds = {"apiKey": "apiKey", "bearer": "http", "openIdConnect": "openIdConnect", "mutualTLS": "mutualTLS"}
    assert {name: scheme["type"] for name, scheme in card["securitySchemes"].items()} == kinds
    assert card["securitySchemes"]["apiKey"]["apiKeySecurityScheme"] == {
        "location": "header",
        "name": "X-API-Key",
    }
    assert card["securityRequirements"] == [{"schemes": {name: {"list": []}}} for name in kinds]
    assert card["security"] == document["security"] == [{name: []} for name in kinds]
    assert set(document["components"]["securitySchemes"]) == set(kinds)


async def test_the_agents_own_words_go_first() -> None:
    own = {"security_schemes": {"mine": {"type": "http", "scheme": "bearer"}}, "security": [{"mine": []}]}
    async with opened_front(own, auth=AuthSettings(api_keys=True)) as front:
        card = (await front.http.get("/.well-known/agent-card.json")).json()
        assert list(card["securitySchemes"]) == ["mine"]
