"""The agent card (sections 4.4, 8; 0.3: 5)."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
import rfc8785
from jwt import PyJWK, PyJWS
from jwt.exceptions import InvalidSignatureError
from jwt.utils import base64url_decode, base64url_encode

from tests.api.front import Front, Json

from .marks import IN_ONE_LOOP, NEW, OLD, RPC, agent, must, should, signed
from .speakers import SPEAKERS

pytestmark = IN_ONE_LOOP
PATH = "/.well-known/agent-card.json"


async def card(front: Front) -> Json:
    response = await front.http.get(PATH)
    assert response.status_code == 200
    found: Json = response.json()
    return found


@must("8.2", "The card is at /.well-known/agent-card.json, for everybody, as JSON")
async def test_the_card_is_public(front: Front) -> None:
    response = await front.http.get(PATH)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["name"] == "echo"


@must("4.4.1", "The card has all required members, even with the smallest config", *NEW)
@agent()
async def test_required_members(front: Front) -> None:
    found = await card(front)
    for name in ("name", "description", "version"):
        assert isinstance(found[name], str)
        assert found[name]
    assert found["supportedInterfaces"]
    assert isinstance(found["capabilities"], dict)
    for name in ("defaultInputModes", "defaultOutputModes", "skills"):
        assert isinstance(found[name], list)


@must("4.4.5", "A skill has id, name, description and tags", *NEW)
@agent(skills=["forecast", {"name": "snow", "description": "Snow", "tags": ["sky"]}])
async def test_skills(front: Front) -> None:
    skills = (await card(front))["skills"]
    assert [skill["id"] for skill in skills] == ["forecast", "snow"]
    assert all(skill["name"] and skill["description"] and skill["tags"] for skill in skills)


@must("8.3.1", "Each declared interface has its url, its binding and its version")
async def test_interfaces_are_declared(front: Front) -> None:
    interfaces = (await card(front))["supportedInterfaces"]
    assert all(urlsplit(each["url"]).scheme in ("http", "https") for each in interfaces)
    declared = {
        f"{each['protocolVersion']} {each['protocolBinding'].replace('JSONRPC', 'JSON-RPC')}"
        for each in interfaces
    }
    assert declared >= set(SPEAKERS)


@must("8.3.1", "What is declared is true: each of these interfaces answers at its url")
@pytest.mark.parametrize("binding", list(SPEAKERS))
async def test_interfaces_answer(front: Front, binding: str) -> None:
    declared = next(
        each
        for each in (await card(front))["supportedInterfaces"]
        if f"{each['protocolVersion']} {each['protocolBinding'].replace('JSONRPC', 'JSON-RPC')}" == binding
    )
    assert declared["url"].rstrip("/") == str(front.http.base_url).rstrip("/")
    assert (await SPEAKERS[binding](front).send())["id"]


@must("3.3.4", "Capabilities are declared as they are", *NEW)
async def test_capabilities(front: Front) -> None:
    capabilities = (await card(front))["capabilities"]
    assert (capabilities["streaming"], capabilities["pushNotifications"]) == (True, True)
    assert not capabilities.get("extendedAgentCard")


@should("8.6.1", "The card has Cache-Control with max-age, and an ETag that changes with its content")
async def test_the_card_can_be_kept(front: Front) -> None:
    response = await front.http.get(PATH)
    assert "max-age=" in response.headers["cache-control"]
    assert response.headers["etag"]
    assert (await front.http.get(PATH)).headers["etag"] == response.headers["etag"]


@should("8.6.2", "Whoever has the card is told 304 without a body: If-None-Match")
async def test_the_card_is_not_sent_again(front: Front) -> None:
    etag = (await front.http.get(PATH)).headers["etag"]
    again = await front.http.get(PATH, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


@must("5.7", "Optional members without a value are left out of the card", *NEW)
@agent()
async def test_optional_members_are_left_out(front: Front) -> None:
    found = await card(front)
    for name in (
        "provider",
        "documentationUrl",
        "iconUrl",
        "securitySchemes",
        "securityRequirements",
        "signatures",
    ):
        assert name not in found or found[name]


@must(
    "0.3: 5.5",
    "The card has protocolVersion, name, description, url, version, capabilities, modes and skills",
    OLD,
)
async def test_required_members_of_0_3(front: Front) -> None:
    found = await card(front)
    required = {"protocolVersion", "name", "description", "url", "version", "capabilities", "skills"}
    assert required | {"defaultInputModes", "defaultOutputModes"} <= set(found)
    assert found["protocolVersion"].startswith("0.3")


@must(
    "0.3: 5.6.4",
    "preferredTransport is there and answers at url; additionalInterfaces has it too, and no url has two of one kind",
    OLD,
)
async def test_transports_of_0_3(front: Front) -> None:
    found = await card(front)
    main = {"url": found["url"], "transport": found["preferredTransport"]}
    assert main["transport"] == "JSONRPC"
    assert main in found["additionalInterfaces"]
    pairs = [(each["url"], each["transport"]) for each in found["additionalInterfaces"]]
    assert len(set(pairs)) == len(pairs)


@must("0.3: 5.3", "The card is also where clients before 0.3 look for it: /.well-known/agent.json", OLD, RPC)
async def test_the_older_path(front: Front) -> None:
    assert (await front.http.get("/.well-known/agent.json")).json() == await card(front)


SCHEMES: dict[str, Json] = {
    "token": {"type": "http", "scheme": "bearer", "bearer_format": "JWT"},
    "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
    "login": {
        "type": "oauth2",
        "flows": {"client_credentials": {"token_url": "https://a.test/t", "scopes": {"read": "Reads"}}},
    },
    "found": {"type": "openIdConnect", "open_id_connect_url": "https://a.test/o"},
    "certificate": {"type": "mutualTLS"},
}
SECURED = agent(security_schemes=SCHEMES, security=[{"token": []}, {"key": [], "login": ["read"]}])


@must("4.5.1", "Each security scheme is told under its name, by the one member that says its kind", *NEW)
@SECURED
async def test_security_schemes(front: Front) -> None:
    told = (await card(front))["securitySchemes"]
    members = {
        name: [member for member in scheme if member.endswith("SecurityScheme")]
        for name, scheme in told.items()
    }
    assert members == {
        "token": ["httpAuthSecurityScheme"],
        "key": ["apiKeySecurityScheme"],
        "login": ["oauth2SecurityScheme"],
        "found": ["openIdConnectSecurityScheme"],
        "certificate": ["mtlsSecurityScheme"],
    }
    assert told["token"]["httpAuthSecurityScheme"] == {"scheme": "bearer", "bearerFormat": "JWT"}
    assert told["key"]["apiKeySecurityScheme"] == {"location": "header", "name": "X-Key"}
    flow = told["login"]["oauth2SecurityScheme"]["flows"]["clientCredentials"]
    assert flow == {"tokenUrl": "https://a.test/t", "scopes": {"read": "Reads"}}
    assert told["found"]["openIdConnectSecurityScheme"] == {"openIdConnectUrl": "https://a.test/o"}


@must("4.4.1", "What callers must satisfy is told as alternatives of schemes with their scopes", *NEW)
@SECURED
async def test_security_requirements(front: Front) -> None:
    assert (await card(front))["securityRequirements"] == [
        {"schemes": {"token": {"list": []}}},
        {"schemes": {"key": {"list": []}, "login": {"list": ["read"]}}},
    ]


@must("0.3: 5.5.3", "A security scheme says its type, in the words of OpenAPI; security names them", OLD)
@SECURED
async def test_security_of_0_3(front: Front) -> None:
    found = await card(front)
    types = {name: scheme["type"] for name, scheme in found["securitySchemes"].items()}
    assert types == {name: scheme["type"] for name, scheme in SCHEMES.items()}
    assert found["securitySchemes"]["key"]["in"] == "header"
    assert found["security"] == [{"token": []}, {"key": [], "login": ["read"]}]


def header_of(signature: Json) -> Json:
    found: Json = json.loads(base64url_decode(signature["protected"]))
    return found


@must("8.4.2", "The protected header of a signature names its algorithm and its key; its typ is JOSE", *NEW)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=signed(kind)) for kind in ("ES256", "EdDSA", "RS256")]
)
async def test_headers_of_signatures(front: Front, kind: str) -> None:
    signatures = (await card(front))["signatures"]
    assert signatures
    for each in signatures:
        assert header_of(each) == {"alg": kind, "kid": "key-1", "typ": "JOSE"}


@must(
    "8.4.1",
    "What is signed is the card in canonical JSON (RFC 8785), without its signatures and without defaults, "
    "required members and `optional` ones excepted",
    *NEW,
)
@signed("ES256")
@agent(security_schemes={"token": {"type": "http", "scheme": "bearer"}}, security=[{"token": []}])
async def test_what_is_signed(front: Front) -> None:
    found = await card(front)
    [key] = (await front.http.get("/.well-known/jwks.json")).json()["keys"]
    names = (
        "name",
        "description",
        "version",
        "supportedInterfaces",
        "defaultInputModes",
        "defaultOutputModes",
    )
    expected = {name: found[name] for name in (*names, "capabilities")} | {
        "skills": [],
        "securitySchemes": {"token": {"httpAuthSecurityScheme": {"scheme": "bearer"}}},
        "securityRequirements": [{"schemes": {"token": {}}}],
    }
    assert expected["capabilities"]["extendedAgentCard"] is False
    payload = base64url_encode(rfc8785.dumps(expected)).decode()
    assert any(fits(each, payload, PyJWK(key)) for each in found["signatures"])


def fits(signature: Json, payload: str, key: PyJWK) -> bool:
    token = f"{signature['protected']}.{payload}.{signature['signature']}"
    try:
        PyJWS().decode(token, key, algorithms=["ES256"])
    except InvalidSignatureError:
        return False
    return True
