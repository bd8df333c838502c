"""Callers who say who they are, to a deployment of real processes: the official client finds out how from the card."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from a2a.client.auth.credentials import CredentialService
from a2a.client.auth.interceptor import AuthInterceptor
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import TaskNotFoundError

from perdure.local import local_services
from tests.support.issuer import AUDIENCE, IssuerServer, running_issuer, signing_key
from tests.support.processes import PERDURE, ROOT, finished, heard, started, surroundings

from .conftest import Stack, until
from .test_sdk_clients import sent, text

AGENT = """
from perdure import bindufy
config = {"name": "echo", "capabilities": {"extended_agent_card": True},
          "extended_card": {"description": "Repeats, for those it knows"}}
bindufy(config, lambda messages: messages[-1]["content"])
"""


@dataclass
class Guarded:
    """A front door and a worker, which take API keys and tokens of an issuer."""

    stack: Stack
    url: str
    issuer: IssuerServer

    def keys(self, *arguments: str) -> str:
        """What `perdure keys` prints."""
        env = surroundings(**self.stack.settings)
        ran = finished([PERDURE, "keys", *arguments], cwd=self.stack.folder, env=env)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with local_services(None, fsync=False) as services, running_issuer() as issuer, ExitStack() as processes:
        issuer.publishes(signing_key("RS256"))
        issuer.discoverable()
        stack = Stack(tmp_path_factory.mktemp("guarded"), services, processes)
        (stack.folder / "agent.py").write_text(AGENT)
        stack.settings |= {
            "AGENT": str(stack.folder / "agent.py"),
            "AUTH__API_KEYS": "true",
            "AUTH__OIDC_ISSUER": issuer.url,
            "AUTH__JWT_AUDIENCE": AUDIENCE,
            "AUTH__PROXY_ADDRESSES": "10.0.0.7",
            "AUTH__CACHE": "0.5",
        }
        url = stack.front_door(HOST="0.0.0.0")[0].url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        stack.worker()
        yield Guarded(stack, url, issuer)


class Credentials(CredentialService):
    """What a caller has, by the name of the scheme in the card."""

    def __init__(self, **by_scheme: str) -> None:
        self._by_scheme = by_scheme

    async def get_credentials(self, scheme: str, context: ClientCallContext | None) -> str | None:
        return self._by_scheme.get(scheme)


@asynccontextmanager
async def client(guarded: Guarded, **credentials: str) -> AsyncIterator[Client]:
    """The official client, told nothing but the address and what the caller has."""
    async with httpx.AsyncClient(timeout=30) as http:
        card = await A2ACardResolver(http, guarded.url).get_agent_card()
        for each in card.supported_interfaces:
            each.url = guarded.url  # the card has the public address
        config = ClientConfig(streaming=False, httpx_client=http)
        yield ClientFactory(config).create(card, interceptors=[AuthInterceptor(Credentials(**credentials))])


async def test_the_official_client_finds_its_way_in_by_the_card(guarded: Guarded) -> None:
    key = guarded.keys("create", "--owner", "ada")
    token = guarded.issuer.token(signing_key("RS256"))
    tasks = []
    for credentials in ({"apiKey": key}, {"openIdConnect": token}):
        async with client(guarded, **credentials) as caller:
            tasks.append(await sent(caller, "hello"))
            assert text(tasks[-1]) == "hello"
            card = await caller.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
            assert card.description == "Repeats, for those it knows"
    async with client(guarded, apiKey=key) as ada:
        assert (await ada.get_task(pb.GetTaskRequest(id=tasks[0].id))).id == tasks[0].id
        with pytest.raises(TaskNotFoundError):
            await ada.get_task(pb.GetTaskRequest(id=tasks[1].id))
    async with client(guarded) as stranger:
        with pytest.raises(Exception, match="401"):
            await sent(stranger, "hello")


def asks(guarded: Guarded, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{guarded.url}/tasks", headers=named, timeout=30).status_code


def test_a_revoked_key_is_refused_within_the_time_it_is_remembered(guarded: Guarded) -> None:
    key = guarded.keys("create", "--owner", "eve")
    assert asks(guarded, X_API_Key=key) == 200
    guarded.keys("revoke", key.split("_")[1])
    until(lambda: asks(guarded, X_API_Key=key) == 401, seconds=5)


def test_a_rotation_needs_no_restart(guarded: Guarded) -> None:
    old = guarded.keys("create", "--owner", "bob")
    assert asks(guarded, X_API_Key=old) == 200
    new = guarded.keys("rotate", old.split("_")[1], "--overlap", "0")
    until(lambda: (asks(guarded, X_API_Key=new), asks(guarded, X_API_Key=old)) == (200, 401), seconds=5)


def test_nobody_becomes_a_proxy_by_a_header(guarded: Guarded) -> None:
    """The address that counts is that of the connection, whatever is said about others."""
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        named: Any = {"X_Client_Cert_Subject": "CN=ada", header: "10.0.0.7"}
        assert asks(guarded, **named) == 401
    env = surroundings(
        **{**guarded.stack.settings, "AUTH__PROXY_ADDRESSES": "127.0.0.0/8", "LOG__FORMAT": "json"}
    )
    with started([PERDURE, "serve", "--port", "0"], cwd=guarded.stack.folder, env=env) as process:
        url = heard(process, "serving")["url"]
        said = {"X-Client-Cert-Subject": "CN=ada", "X-Forwarded-For": "192.0.2.1"}
        assert httpx.get(f"{url}/tasks", headers=said, timeout=30).status_code == 200


def test_our_own_client_sends_a_key(guarded: Guarded) -> None:
    key = guarded.keys("create", "--owner", "ada")
    command = [PERDURE, "send", "hello", "--to", guarded.url]
    refused = finished(command, cwd=ROOT, env=surroundings())
    assert refused.returncode == 1
    answered = finished([*command, "--key", key], cwd=ROOT, env=surroundings())
    assert (answered.returncode, answered.stdout.strip()) == (0, "hello"), answered.stderr
