"""Signed cards (A2A 1.0, section 8.4): the official SDK's verifier takes them, and no changed one; so do readers who know 1.0
to the letter, and those who know no types at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from a2a.client.card_resolver import A2ACardResolver, parse_agent_card
from a2a.utils.signing import (
    InvalidSignaturesError,
    NoSignatureError,
    SignatureVerificationError,
    create_signature_verifier,
)
from jwt import PyJWK, PyJWS
from jwt.exceptions import InvalidSignatureError
from jwt.utils import base64url_encode
from pydantic import SecretStr

from api.auth import Caller
from api.cards import cards_of
from perdure.agent import Agent
from perdure.cards.signatures import JWKS_PATH, NotVerified, read_key, read_public_keys, verified
from perdure.errors import ConfigError
from perdure.settings import AuthSettings, CardSettings
from tests.support.keys import pem

from .front import Front, Json, opened_front
from .test_card import EXTENDED, FULL, SECURE

PATH = "/.well-known/agent-card.json"
ALGORITHMS = ["ES256", "EdDSA", "RS256"]
EMPTIES = {
    "name": "Wetter 天気 \U0001f327 \u20ac",
    "skills": [],
    "capabilities": {
        "extensions": [
            {"uri": "urn:e", "params": {"none": None, "empty": {"of": []}, "text": "", "n": [1.0, 0.5, 1e21]}}
        ]
    },
    "security_schemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
    "security": [{"key": []}],
}
"""What the specification and the official SDK do not canonicalize alike."""
CONFIGS: list[Json] = [{}, FULL, FULL | SECURE, EMPTIES, EXTENDED]


def settings(kind: str = "ES256", **more: Any) -> CardSettings:
    return CardSettings(signing_key=SecretStr(pem(kind)), **more)


def card_of(config: Json, kind: str = "ES256", **more: Any) -> Json:
    agent = Agent.of({"name": "a", **config}, lambda messages: None)
    return cards_of(agent, read_key(settings(kind, **more))).public


def key_of(kind: str) -> PyJWK:
    key = read_key(settings(kind))
    assert key is not None
    return PyJWK(dict(key.public))


def by_the_sdk(card: Json, key: PyJWK) -> None:
    """Raises SignatureVerificationError, as the official client would."""
    create_signature_verifier(lambda kid, jku: key, ALGORITHMS)(parse_agent_card(copy.deepcopy(card)))


def fits(card: Json, payload: Json, key: PyJWK) -> bool:
    """Whether one of the signatures is over this."""
    form = base64url_encode(rfc8785.dumps(payload)).decode()
    for each in card["signatures"]:
        try:
            PyJWS().decode(f"{each['protected']}.{form}.{each['signature']}", key, algorithms=ALGORITHMS)
        except InvalidSignatureError:
            continue
        return True
    return False


# ---------------------------------------------------------------------- who takes them


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize("config", CONFIGS, ids=["smallest", "full", "secured", "empties", "extended"])
def test_the_official_sdk_takes_the_card(kind: str, config: Json) -> None:
    card, key = card_of(config, kind), key_of(kind)
    by_the_sdk(card, key)
    assert verified(card, [key]) == key.key_id
    other = key_of("EdDSA" if kind == "ES256" else "ES256")
    with pytest.raises(InvalidSignaturesError):
        by_the_sdk(card, other)
    with pytest.raises(NotVerified):
        verified(card, [other])


async def test_the_official_client_takes_it_with_the_key_that_is_served() -> None:
    auth = AuthSettings(bootstrap_key=SecretStr("k" * 32))
    jku = f"https://agent.test{JWKS_PATH}"
    async with opened_front(FULL, card=settings(jwks_url=jku, key_id="key-1"), auth=auth) as front:
        [jwk] = (await front.http.get(JWKS_PATH)).json()["keys"]
        asked: list[tuple[str | None, str | None]] = []

        def keys(kid: str | None, jku: str | None) -> PyJWK:
            asked.append((kid, jku))
            return PyJWK(jwk)

        resolver = A2ACardResolver(front.http, "http://agent.test")
        card = await resolver.get_agent_card(signature_verifier=create_signature_verifier(keys, ["ES256"]))
        assert card.name == "weather"
        assert set(asked) == {("key-1", jku)}
    assert "d" not in jwk
    assert (jwk["kid"], jwk["use"], jwk["alg"]) == ("key-1", "sig", "ES256")


def test_who_reads_the_specification_to_the_letter_takes_it() -> None:
    """Its own example of what stays and what goes, with an agent that has no skills and a requirement without scopes."""
    card = card_of(EMPTIES)
    known = ("name", "description", "version", "capabilities", "defaultInputModes", "defaultOutputModes")
    expected = {name: card[name] for name in known} | {
        "skills": [],
        "supportedInterfaces": card["supportedInterfaces"],
        "securitySchemes": {"key": {"apiKeySecurityScheme": {"location": "header", "name": "X-Key"}}},
        "securityRequirements": [{"schemes": {"key": {}}}],
    }
    assert expected["capabilities"]["streaming"] is True
    assert expected["capabilities"]["extendedAgentCard"] is False
    assert fits(card, expected, key_of("ES256"))


@pytest.mark.parametrize("config", CONFIGS, ids=["smallest", "full", "secured", "empties", "extended"])
def test_who_knows_no_types_takes_all_that_the_document_says(config: Json) -> None:
    card = card_of(config)
    whole = {name: value for name, value in card.items() if name != "signatures"}
    assert "protocolVersion" in whole
    assert fits(card, whole, key_of("ES256"))


# ---------------------------------------------------------------------- who does not


def text_changed(card: Json) -> None:
    card["description"] = card["description"].replace("T", "t", 1)


def sent_elsewhere(card: Json) -> None:
    card["supportedInterfaces"][0]["url"] = "https://evil.test/"


def capability_added(card: Json) -> None:
    card["capabilities"]["pushNotifications"] = not card["capabilities"]["pushNotifications"]


def skill_removed(card: Json) -> None:
    card["skills"].pop()


def requirement_removed(card: Json) -> None:
    del card["securityRequirements"], card["security"]


def scheme_changed(card: Json) -> None:
    card["securitySchemes"]["token"]["httpAuthSecurityScheme"]["scheme"] = "basic"
    card["securitySchemes"]["token"]["scheme"] = "basic"


CHANGES: list[Callable[[Json], None]] = [
    text_changed,
    sent_elsewhere,
    capability_added,
    skill_removed,
    requirement_removed,
    scheme_changed,
]


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_card_is_refused(change: Callable[[Json], None], kind: str) -> None:
    card, key = card_of(FULL | SECURE, kind), key_of(kind)
    change(card)
    with pytest.raises(InvalidSignaturesError):
        by_the_sdk(card, key)
    with pytest.raises(NotVerified, match="was changed"):
        verified(card, [key])


def test_a_changed_signature_is_refused() -> None:
    card, key = card_of(FULL), key_of("ES256")
    for each in card["signatures"]:
        flipped = "B" if each["signature"][0] == "A" else "A"
        each["signature"] = flipped + each["signature"][1:]
    with pytest.raises(SignatureVerificationError):
        by_the_sdk(card, key)
    with pytest.raises(NotVerified):
        verified(card, [key])


@pytest.mark.parametrize(
    "signatures", [None, [], "x", [1], [{}], [{"protected": "%", "signature": 1}], [{"protected": "e30"}]]
)
def test_what_is_no_signature_verifies_nothing(signatures: Any) -> None:
    card = card_of(FULL) | {"signatures": signatures}
    with pytest.raises(NotVerified):
        verified(card, [key_of("ES256")])


def test_a_card_that_is_not_signed_has_no_signatures() -> None:
    agent = Agent.of({"name": "a"}, lambda messages: None)
    card = cards_of(agent, None).public
    assert "signatures" not in card
    with pytest.raises(NoSignatureError):
        by_the_sdk(card, key_of("ES256"))
    with pytest.raises(NotVerified, match="no signatures"):
        verified(card, [key_of("ES256")])


# ---------------------------------------------------------------------- how they are served


@pytest.mark.parametrize("kind", ALGORITHMS)
async def test_every_front_door_serves_the_same_bytes(kind: str) -> None:
    answers = []
    for _ in range(2):
        async with opened_front(FULL, card=settings(kind)) as front:
            answers.append(await front.http.get(PATH))
    assert answers[0].content == answers[1].content
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    async with opened_front(FULL, card=settings(kind)) as front:
        again = await front.http.get(PATH, headers={"If-None-Match": answers[0].headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        older = await front.http.get("/.well-known/agent.json")
        assert older.json() == answers[0].json()
    async with opened_front(FULL | {"version": "9"}, card=settings(kind)) as front:
        assert (await front.http.get(PATH)).headers["etag"] != answers[0].headers["etag"]


async def test_the_extended_card_is_signed_too() -> None:
    agent = Agent.of({"name": "a", **EXTENDED}, lambda messages: None)
    cards = cards_of(agent, read_key(settings()))
    extended = cards.extended.shown_to(Caller("ada", authenticated=True))
    assert [skill["id"] for skill in extended["skills"]] == ["forecast", "snow", "rain"]
    by_the_sdk(extended, key_of("ES256"))
    extended["skills"].pop()
    with pytest.raises(InvalidSignaturesError):
        by_the_sdk(extended, key_of("ES256"))


async def test_the_public_key_is_served_when_wished() -> None:
    async def status(front: Front) -> int:
        return (await front.http.get(JWKS_PATH)).status_code

    async with opened_front(FULL, card=settings()) as front:
        answer = await front.http.get(JWKS_PATH)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=300"
        [key] = read_public_keys(answer.text)
        assert verified((await front.http.get(PATH)).json(), [key]) == key.key_id
    async with opened_front(FULL, card=settings(serve_jwks=False)) as front:
        assert await status(front) == 404
    async with opened_front(FULL) as front:
        assert await status(front) == 404


def test_the_default_id_is_the_keys_thumbprint() -> None:
    """RFC 8037, appendix A.3, has one of an Ed25519 key."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    public = PyJWK({**jwk, "alg": "EdDSA"}).key.public_bytes_raw().hex()
    assert public == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = Ed25519PrivateKey.from_private_bytes(secret).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = read_key(CardSettings(signing_key=SecretStr(text.decode())))
    assert key is not None
    assert key.key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


# ---------------------------------------------------------------------- what is wrong with a key or a card


def test_a_key_may_be_a_file_or_stand_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem("EdDSA"))
    for value in (str(file), pem("EdDSA"), pem("EdDSA").replace("\n", "\\n")):
        key = read_key(CardSettings(signing_key=SecretStr(value)))
        assert key is not None
        assert key.public == key_of("EdDSA")._jwk_data


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/nowhere/key.pem", "neither PEM nor a file that can be read: no such file"),
        ("/", "neither PEM nor a file that can be read: is a directory"),
        ("c2VjcmV0" * 60, "neither PEM nor a file that can be read"),
        ("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----", "no private key in PEM"),
        (pem("ES256", "secret"), "has a password"),
        (pem("P-384"), "there are P-256"),
        (pem("short RSA"), "there are P-256"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        read_key(CardSettings(signing_key=SecretStr(value)))
    assert "c2VjcmV0" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_public_key_cannot_sign() -> None:
    public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
    with pytest.raises(ConfigError, match="no private key"):
        read_key(CardSettings(signing_key=SecretStr(public + "-----END PUBLIC KEY-----")))
    [key] = read_public_keys(public + "-----END PUBLIC KEY-----")
    assert key.key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '"a"'])
def test_what_is_no_public_key_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"keys? "):
        read_public_keys(text)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"n": 2**60}, "cannot be signed: .*safe integer"),
        ({"n": object()}, "is no JSON"),
    ],
)
def test_a_card_that_cannot_be_signed_does_not_start(params: Json, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        card_of({"capabilities": {"extensions": [{"uri": "urn:e", "params": params}]}})


def test_a_card_that_nests_without_end_is_refused() -> None:
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(NotVerified, match="nests deeper"):
        verified({"signatures": [{}], "a": deep}, [key_of("ES256")])
