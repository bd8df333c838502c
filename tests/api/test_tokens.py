"""JWT bearer tokens: whom they let in, whom not, and where the keys come from. The issuer is a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs

from api.auth import issuers
from perdure.settings import AuthSettings
from tests.api.front import Front, at_once, opened_front
from tests.support.issuer import AUDIENCE, IssuerServer, SigningKey, running_issuer, signing_key

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
RSA, EC, ED = (signing_key(name) for name in ALGORITHMS)


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    """An issuer that signs with one key of each kind."""
    with running_issuer() as server:
        server.publishes(RSA, EC, ED)
        yield server


def by_jwks(issuer: IssuerServer, **more: Any) -> AuthSettings:
    return AuthSettings(jwt_issuer=issuer.url, jwks_url=issuer.jwks_url, jwt_audience=AUDIENCE, **more)


async def asks(front: Front, token: str) -> httpx.Response:
    return await front.post("tasks/list", {}, Authorization=f"Bearer {token}")


async def let_in(front: Front, token: str) -> bool:
    response = await asks(front, token)
    assert response.status_code in (200, 401), response.text
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="perdure", error="invalid_token"'
    return response.status_code == 200


# ---------------------------------------------------------------------- good ones


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_of_each_kind_of_key_is_taken(issuer: IssuerServer, algorithm: str) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        token = issuer.token(signing_key(algorithm))
        sent = await front.post("SendMessage", at_once(), Authorization=f"Bearer {token}")
        task = sent.json()["result"]["task"]
        assert (await front.storage.load_task(f"{issuer.url}|ada", UUID(task["id"]))).history


async def test_discovery_finds_the_keys(issuer: IssuerServer) -> None:
    issuer.discoverable()
    async with opened_front(auth=AuthSettings(oidc_issuer=issuer.url, jwt_audience=AUDIENCE)) as front:
        assert await let_in(front, issuer.token(EC))
        assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]
        card = (await front.http.get("/.well-known/agent-card.json")).json()
        [scheme] = card["securitySchemes"].values()
        url = f"{issuer.url}/.well-known/openid-configuration"
        assert scheme["openIdConnectSecurityScheme"] == {"openIdConnectUrl": url}


async def test_a_token_in_the_header_for_keys_is_none(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        response = await front.post("tasks/list", {}, X_API_Key=issuer.token(EC))
        assert response.status_code == 401


async def test_a_token_without_a_key_id_is_of_the_only_key_of_its_kind(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert await let_in(front, issuer.token(EC, header={"kid": None}))
        issuer.publishes(EC, signing_key("ES256", "other"))
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert not await let_in(front, issuer.token(EC, header={"kid": None}))
        assert await let_in(front, issuer.token(EC))


@pytest.mark.parametrize(
    ("claims", "times"),
    [
        ({"aud": ["https://other.test", AUDIENCE]}, {}),
        ({}, {"nbf": 5}),  # within the leeway
        ({}, {"exp": -5}),
        ({"jti": "1", "more": {"of": ["it"]}}, {"iat": 0}),
    ],
    ids=str,
)
async def test_good_claims(issuer: IssuerServer, claims: dict[str, Any], times: dict[str, int]) -> None:
    async with opened_front(auth=by_jwks(issuer, jwt_leeway=300)) as front:
        now: dict[str, Any] = {name: int(time.time()) + seconds for name, seconds in times.items()}
        assert await let_in(front, issuer.token(EC, **claims, **now))


# ---------------------------------------------------------------------- bad ones


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"},
        {"iss": None},
        {"aud": "https://other.test"},
        {"aud": None},
        {"aud": []},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 2**33},
        {"sub": None},
        {"sub": ""},
        {"sub": "s" * 256},
        {"sub": "a\u0000b"},
    ],
    ids=str,
)
async def test_bad_claims(issuer: IssuerServer, claims: dict[str, Any]) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert not await let_in(front, issuer.token(EC, **claims))


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(token: str, algorithm: str) -> str:
    """The token's claims, with no signature and an algorithm that needs none."""
    return f"{encoded({'alg': algorithm, 'kid': 'RS256'})}.{token.split('.')[1]}."


def signed_with_public_key(token: str, key: SigningKey, secret: bytes) -> str:
    """Algorithm confusion: an HMAC whose secret is what everybody knows, the public key."""
    text = f"{encoded({'alg': 'HS256', 'kid': key.kid})}.{token.split('.')[1]}"
    signature = hmac.new(secret, text.encode(), sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def forged(issuer: IssuerServer) -> Iterator[tuple[str, str]]:
    """Tokens that somebody else made, by how."""
    good = issuer.token(RSA)
    head, claims, signature = good.split(".")
    for name in ("none", "None", "NONE", "nOnE", ""):
        yield f"alg {name!r}", unsigned(good, name)
    pem = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(RSA.jwk).encode(), b""):
        yield "HS256 with the public key", signed_with_public_key(good, RSA, secret)
    other = SigningKey("RS256", "RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    yield "another key of the same id", issuer.token(other)
    yield "its own key in the header", issuer.token(other, header={"jwk": other.jwk})
    yield "its own keys' address in the header", issuer.token(other, header={"jku": "http://127.0.0.1:1/"})
    yield "the id of a key of another kind", issuer.token(EC, header={"kid": "RS256"})
    yield "a critical extension", issuer.token(RSA, header={"crit": ["exp"], "exp": 1})
    yield "a detached payload", issuer.token(RSA, header={"b64": False})
    yield "a signature cut off", f"{head}.{claims}.{signature[:-4]}"
    yield "no signature", f"{head}.{claims}."
    yield (
        "other claims",
        f"{head}.{encoded({**json.loads(base64.urlsafe_b64decode(claims + '==')), 'sub': 'eve'})}.{signature}",
    )
    yield "an issuer that is no text", f"{head}.{encoded({'iss': [issuer.url]})}.{signature}"
    yield "two parts", f"{head}.{claims}"
    yield "no base64", f"{head}.{claims}.!!!!"
    yield "claims that are no object", f"{head}.{encoded([1])}.{signature}"
    yield "a header that is no object", f"{encoded([1])}.{claims}.{signature}"
    yield "claims that nest", f"{head}.{base64.urlsafe_b64encode(b'[' * 9000).decode()}.{signature}"


async def test_no_forged_token_is_taken(issuer: IssuerServer) -> None:
    tried = 0
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert await let_in(front, issuer.token(RSA))
        for how, token in forged(issuer):
            assert not await let_in(front, token), how
            tried += 1
    assert tried > 20
    assert set(issuer.asked) == {"/jwks"}


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "ES256K"])
async def test_other_algorithms_are_refused_before_anything_is_looked_up(
    issuer: IssuerServer, algorithm: str
) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        with capture_logs() as logged:
            assert not await let_in(front, unsigned(issuer.token(RSA), algorithm))
        assert [line["reason"] for line in logged] == ["a token with an algorithm that is not taken"]
        assert issuer.asked == []


async def test_a_refused_token_is_not_in_the_log(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        token = issuer.token(RSA, exp=1)
        with capture_logs() as logged:
            assert not await let_in(front, token)
        [line] = [line for line in logged if line["event"] == "auth.refused"]
        assert "expired" in line["reason"]
        assert not any(part in repr(logged) for part in token.split("."))


async def test_a_token_is_remembered_no_longer_than_it_is_good(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer, jwt_leeway=0, cache=60), rate=0) as front:
        token = issuer.token(EC, exp=int(time.time()) + 2)
        assert await let_in(front, token)
        since = time.monotonic()
        while await let_in(front, token):
            assert time.monotonic() - since < 10


# ---------------------------------------------------------------------- who it is, and what they may do


async def test_owners_of_two_issuers_are_two(issuer: IssuerServer) -> None:
    with running_issuer() as other:
        other.publishes(EC)
        other.discoverable()
        auth = by_jwks(issuer, oidc_issuer=other.url)
        async with opened_front(auth=auth) as front:
            tokens = [issuer.token(EC), other.token(EC)]
            for token in tokens:
                await front.post("SendMessage", at_once(), Authorization=f"Bearer {token}")
            totals = [(await asks(front, token)).json()["result"]["totalSize"] for token in tokens]
            assert totals == [1, 1]


@pytest.mark.parametrize(
    ("claims", "more", "may"),
    [
        ({"scope": "read write"}, {}, "read write"),
        ({"scope": ["write", "other"]}, {}, "write"),
        ({"scope": "openid email"}, {}, ""),
        ({"scope": ""}, {"jwt_default_scopes": "read"}, ""),
        ({"scope": 7}, {"jwt_default_scopes": "read"}, ""),
        ({"scope": None}, {}, ""),
        ({"scope": None}, {"jwt_default_scopes": "read,write"}, "read write"),
        (
            {"scope": None, "scp": ["agent.read"]},
            {"jwt_scope_claim": "scp", "jwt_scope_prefix": "agent."},
            "read",
        ),
        ({"scope": "read perdure:write"}, {"jwt_scope_prefix": "perdure:"}, "write"),
    ],
    ids=str,
)
async def test_scopes_of_a_token(issuer: IssuerServer, claims: Any, more: Any, may: str) -> None:
    async with opened_front(auth=by_jwks(issuer, **more)) as front:
        token = issuer.token(EC, **claims)
        said = {"Authorization": f"Bearer {token}"}
        allowed = [
            scope
            for scope, asked in (
                ("read", await front.post("tasks/list", {}, **said)),
                ("write", await front.post("SendMessage", at_once(), **said)),
            )
            if asked.status_code == 200
        ]
        assert " ".join(allowed) == may


async def test_another_claim_may_name_the_owner(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer, jwt_owner_claim="client_id")) as front:
        assert not await let_in(front, issuer.token(EC))
        token = issuer.token(EC, client_id="robot")
        sent = await front.post("SendMessage", at_once(), Authorization=f"Bearer {token}")
        task = UUID(sent.json()["result"]["task"]["id"])
        assert (await front.storage.load_task(f"{issuer.url}|robot", task)).owner == f"{issuer.url}|robot"


# ---------------------------------------------------------------------- where the keys come from


async def test_keys_are_fetched_once_however_many_ask(issuer: IssuerServer) -> None:
    async with opened_front(auth=by_jwks(issuer, cache=0)) as front:
        tokens = [issuer.token(EC, jti=str(number)) for number in range(20)]
        assert all(await asyncio.gather(*(let_in(front, token) for token in tokens)))
    assert issuer.asked == ["/jwks"]


async def test_a_new_key_is_fetched_when_it_is_first_seen(issuer: IssuerServer) -> None:
    new = signing_key("ES256", "new")
    async with opened_front(auth=by_jwks(issuer, cache=0)) as front:
        old_token = issuer.token(EC)
        assert await let_in(front, old_token)
        issuer.publishes(new)
        assert await let_in(front, issuer.token(new))
        assert len(issuer.asked) == 2
        assert not await let_in(front, old_token), "its key was withdrawn"


async def test_unknown_key_ids_do_not_make_us_ask_without_end(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert await let_in(front, issuer.token(EC))
        for number in range(20):
            assert not await let_in(front, issuer.token(EC, header={"kid": f"made up {number}"}))
        assert len(issuer.asked) == 2
        assert await let_in(front, issuer.token(EC, jti="another"))
        monkeypatch.setattr(issuers, "PAUSE", 0.0)
        assert not await let_in(front, issuer.token(EC, header={"kid": "later"}))
        assert len(issuer.asked) == 3


async def test_old_keys_are_renewed_while_requests_go_on(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_front(auth=by_jwks(issuer, cache=0)) as front:
        assert await let_in(front, issuer.token(EC))
        monkeypatch.setattr(issuers, "FRESH", 0.0)
        monkeypatch.setattr(issuers, "PAUSE", 0.0)
        issuer.gate.clear()  # it takes its time, and nobody waits for it
        for _ in range(3):
            assert await let_in(front, issuer.token(EC))
        monkeypatch.setattr(issuers, "FRESH", 300.0)
        issuer.gate.set()
        assert await let_in(front, issuer.token(EC))


async def test_keys_outlive_an_outage_of_their_issuer_for_a_while(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_front(auth=by_jwks(issuer, cache=0)) as front:
        assert await let_in(front, issuer.token(EC))
        issuer.answers["/jwks"] = 500
        monkeypatch.setattr(issuers, "FRESH", 0.0)
        assert await let_in(front, issuer.token(EC))
        monkeypatch.setattr(issuers, "USABLE", 0.0)
        monkeypatch.setattr(issuers, "PAUSE", 0.0)
        response = await asks(front, issuer.token(EC))
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")


async def test_an_issuer_that_comes_back_is_asked_again(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.answers["/jwks"] = 500
    async with opened_front(auth=by_jwks(issuer)) as front:
        for _ in range(5):
            assert (await asks(front, issuer.token(EC))).status_code == 503
        assert len(issuer.asked) <= 2, "not with every request"
        issuer.publishes(EC)
        monkeypatch.setattr(issuers, "PAUSE", 0.0)
        assert await let_in(front, issuer.token(EC))


USELESS: list[Any] = [
    404,
    302,
    b"no json",
    b'{"keys": "' + b"k" * (issuers.MOST_BYTES + 1) + b'"}',
    [],
    {},
    {"keys": []},
    {"keys": [7, {"kty": "RSA"}, {"kty": "oct", "kid": "ES256", "k": "c2VjcmV0", "alg": "HS256"}]},
    {"keys": [{**EC.jwk, "use": "enc"}]},
    {"keys": [{**EC.jwk, "alg": "ES384"}]},
]


@pytest.mark.parametrize("answer", USELESS, ids=lambda answer: repr(answer)[:40])
async def test_an_issuer_that_cannot_be_used_is_not_the_callers_fault(
    issuer: IssuerServer, answer: Any
) -> None:
    issuer.answers["/jwks"] = answer
    issuer.answers["/elsewhere"] = {"keys": [EC.jwk]}
    async with opened_front(auth=by_jwks(issuer)) as front:
        with capture_logs() as logged:
            assert (await asks(front, issuer.token(EC))).status_code == 503
        assert "auth.keys_not_fetched" in [line["event"] for line in logged]
    assert "/elsewhere" not in issuer.asked


async def test_short_rsa_keys_are_left_out(issuer: IssuerServer) -> None:
    short = SigningKey("short", "RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505 -- as wanted
    issuer.publishes(short, EC)
    async with opened_front(auth=by_jwks(issuer)) as front:
        assert await let_in(front, issuer.token(EC))
        with pytest.warns(UserWarning, match="2048"):
            token = issuer.token(short)
        assert not await let_in(front, token)


@pytest.mark.parametrize("members", [{"issuer": "https://evil.test"}, {"jwks_uri": None}], ids=str)
async def test_a_discovery_document_of_somebody_else_is_refused(issuer: IssuerServer, members: Any) -> None:
    issuer.discoverable(**members)
    async with opened_front(auth=AuthSettings(oidc_issuer=issuer.url, jwt_audience=AUDIENCE)) as front:
        assert (await asks(front, issuer.token(EC))).status_code == 503
        assert "/jwks" not in issuer.asked


async def test_the_event_loop_goes_on_while_keys_are_fetched(issuer: IssuerServer) -> None:
    issuer.gate.clear()
    async with opened_front(auth=by_jwks(issuer)) as front:
        waiting = asyncio.create_task(let_in(front, issuer.token(EC)))
        assert await asyncio.to_thread(issuer.was_asked.wait, 10)
        assert (await front.http.get("/healthz")).status_code == 200
        assert not waiting.done()
        issuer.gate.set()
        assert await waiting
