"""An issuer of tokens: a real HTTP server of this test, with discovery, a JWKS and keys to sign with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Json = dict[str, Any]
AUDIENCE = "https://agent.test"


@dataclass(frozen=True)
class SigningKey:
    """A private key, its algorithm, and the JWK of its public half."""

    kid: str
    algorithm: str
    private: Any

    @property
    def jwk(self) -> Json:
        made: Json = _ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**made, "kid": self.kid, "use": "sig"}


_ALGORITHMS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


@cache
def signing_key(algorithm: str, kid: str | None = None) -> SigningKey:
    """A key, the same one each time that it is asked for."""
    private: Any
    match algorithm:
        case "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case _:
            private = ed25519.Ed25519PrivateKey.generate()
    return SigningKey(kid or algorithm, algorithm, private)


@dataclass
class IssuerServer:
    """The issuer. `answers` are what it serves at each path: JSON, or a status; change them at will."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """Answers come once it is set."""
    was_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/jwks"

    def publishes(self, *keys: SigningKey | Json) -> None:
        """From now on these are its keys."""
        self.answers["/jwks"] = {"keys": [key.jwk if isinstance(key, SigningKey) else key for key in keys]}

    def discoverable(self, **members: Any) -> None:
        """It has a discovery document."""
        document = {"issuer": self.url, "jwks_uri": self.jwks_url, **members}
        self.answers["/.well-known/openid-configuration"] = document

    def token(self, key: SigningKey, *, header: Json | None = None, **claims: Any) -> str:
        """A token of `ada` that is good for a minute; claims that are None are left out."""
        said = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "exp": int(time.time()) + 60,
            "scope": "read write",
            **claims,
        }
        given = {name: value for name, value in said.items() if value is not None}
        named = {"kid": key.kid, **(header or {})}
        headers = {name: value for name, value in named.items() if value is not None}
        return jwt.encode(given, key.private, key.algorithm, headers=headers)


@contextmanager
def running_issuer() -> Iterator[IssuerServer]:
    """An issuer that listens on a port of this machine."""
    issuer = IssuerServer()
    issuer.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            issuer.was_asked.set()
            issuer.gate.wait(10)
            answer = issuer.answers.get(self.path, 404)
            status = answer if isinstance(answer, int) else 200
            body = b"" if isinstance(answer, int) else _bytes(answer)
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield issuer
        finally:
            issuer.gate.set()
            server.shutdown()
            thread.join()


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()
