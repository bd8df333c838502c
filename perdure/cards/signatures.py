"""Signed agent cards: JSON Web Signatures (RFC 7515) over the canonical card (A2A 1.0, section 8.4), and their public key as a
JWKS (RFC 7517)."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt import PyJWK, PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS
from jwt.utils import base64url_decode, der_to_raw_signature

from perdure.cards.form import NotCanonical, payloads
from perdure.errors import ConfigError
from perdure.settings import CardSettings

Json = dict[str, Any]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
ALGORITHMS = ("ES256", "EdDSA", "RS256")
KINDS = "P-256 (ES256), Ed25519 (EdDSA) and RSA of 2048 bits or more (RS256)"
JWKS_PATH = "/.well-known/jwks.json"


class _Steady(ECAlgorithm):
    """ECDSA whose signatures are the same each time (RFC 6979): every front door serves the same bytes, under one ETag."""

    def sign(self, msg: bytes, key: Any) -> bytes:
        made = key.sign(msg, ec.ECDSA(self.hash_alg(), deterministic_signing=True))
        return der_to_raw_signature(made, key.curve)


def _jws() -> PyJWS:
    jws = PyJWS(algorithms=ALGORITHMS)
    jws.unregister_algorithm("ES256")
    jws.register_algorithm("ES256", _Steady(ECAlgorithm.SHA256, ec.SECP256R1))
    return jws


_JWS = _jws()


# ---------------------------------------------------------------------- the key


@dataclass(frozen=True, slots=True)
class CardKey:
    """What cards are signed with. `public` is its JWK; `jwks_url` is told as `jku` where it is not empty."""

    private: PrivateKey
    algorithm: str
    key_id: str
    public: Mapping[str, Any]
    jwks_url: str = ""

    @property
    def jwks(self) -> Json:
        """The JWK Set with the public key."""
        return {"keys": [dict(self.public)]}


def read_key(settings: CardSettings) -> CardKey | None:
    """The key of CARD__SIGNING_KEY; None where there is none. ConfigError says what is wrong with it."""
    if settings.signing_key is None:
        return None
    pem = _pem(settings.signing_key.get_secret_value().strip())
    try:
        private = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(
            "CARD__SIGNING_KEY has a password; take it off with `openssl pkey -in key.pem -out plain.pem`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            "CARD__SIGNING_KEY is no private key in PEM; `openssl genpkey -algorithm ed25519 -out key.pem` makes one"
        ) from None
    algorithm, jwk = _described(private)
    key_id = settings.key_id or _thumbprint(jwk)
    public = {**jwk, "kid": key_id, "use": "sig", "alg": algorithm}
    return CardKey(private, algorithm, key_id, public, settings.jwks_url)  # type: ignore[arg-type] # _described let it pass


def _pem(value: str) -> bytes:
    if "-----BEGIN" in value:
        return value.replace("\\n", "\n").encode()  # as it stands where a variable may have one line only
    # Never the value itself: it may be a key.
    try:
        return Path(value).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "no path"
        raise ConfigError(f"CARD__SIGNING_KEY is neither PEM nor a file that can be read: {why}") from None


def _described(key: Any) -> tuple[str, Json]:
    """Its algorithm and its public JWK, without names."""
    public = key.public_key() if hasattr(key, "public_key") else key
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return "ES256", ECAlgorithm.to_jwk(public, as_dict=True)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "EdDSA", OKPAlgorithm.to_jwk(public, as_dict=True)
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048:
        members = RSAAlgorithm.to_jwk(public, as_dict=True)
        return "RS256", {name: members[name] for name in ("kty", "n", "e")}
    raise ConfigError(f"this kind of key is not for cards: there are {KINDS}")


def _thumbprint(jwk: Json) -> str:
    """RFC 7638: the same for the same key, whoever computes it."""
    needed: Any = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    return urlsafe_b64encode(sha256(rfc8785.dumps(needed)).digest()).rstrip(b"=").decode()


# ---------------------------------------------------------------------- signing


def signed(card: Json, key: CardKey | None) -> Json:
    """The card with a signature for each of its forms. ConfigError for one that has no canonical form."""
    if key is None:
        return card
    header = {"typ": "JOSE", "kid": key.key_id} | ({"jku": key.jwks_url} if key.jwks_url else {})
    try:
        made = [_signature(payload, key, header) for payload in payloads(card)]
    except NotCanonical as error:
        raise ConfigError(f"the agent's card cannot be signed: {error}") from None
    return {**card, "signatures": made}


def _signature(payload: bytes, key: CardKey, header: Json) -> Json:
    token = _JWS.encode(payload, key.private, key.algorithm, header)
    protected, _, signature = token.split(".")
    return {"protected": protected, "signature": signature}


# ---------------------------------------------------------------------- verifying


class NotVerified(Exception):
    """None of a card's signatures is one by these keys. The text says why."""


def headers_of(card: Mapping[str, Any]) -> Iterator[Json]:
    """The protected headers of a card's signatures: those that can be read."""
    for each in _signatures(card):
        try:
            header = json.loads(base64url_decode(str(each.get("protected", ""))))
        except ValueError:
            continue
        if isinstance(header, dict):
            yield header


def verified(card: Mapping[str, Any], keys: Sequence[PyJWK]) -> str:
    """The id of the key by which a signature of the card is right. `NotVerified`."""
    if not _signatures(card):
        raise NotVerified("the card has no signatures")
    try:
        forms = [urlsafe_b64encode(form).rstrip(b"=").decode() for form in payloads(card)]
    except NotCanonical as error:
        raise NotVerified(f"the card has no canonical form: {error}") from None
    for each in _signatures(card):
        for form in forms:
            token = f"{each.get('protected')}.{form}.{each.get('signature')}"
            for key in keys:
                if _fits(token, key):
                    return key.key_id or ""
    raise NotVerified("none of its signatures is right: the card was changed, or signed with another key")


def _fits(token: str, key: PyJWK) -> bool:
    try:
        _JWS.decode(token, key, algorithms=[key.algorithm_name])
    except (PyJWTError, ValueError, TypeError):
        return False
    return True


def _signatures(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = card.get("signatures")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def read_public_keys(text: str) -> list[PyJWK]:
    """Those of a JWK Set, a JWK or a public key in PEM that can verify cards. ConfigError if there are none."""
    try:
        if "-----BEGIN" in text:
            algorithm, jwk = _described(load_pem_public_key(text.encode()))
            return [PyJWK({**jwk, "kid": _thumbprint(jwk), "alg": algorithm})]
        told = json.loads(text)
        jwks = told.get("keys", [told])
        keys = [PyJWK(jwk) for jwk in jwks if jwk.get("kty") in ("EC", "OKP", "RSA")]
    except (PyJWTError, ValueError, AttributeError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("the keys are neither a JWK Set nor a public key in PEM") from None
    usable = [key for key in keys if key.algorithm_name in ALGORITHMS]
    if not usable:
        raise ConfigError(f"there is no key for cards among them: there are {KINDS}")
    return usable
