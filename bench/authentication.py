"""What it costs to know who calls, in this process: `python -m bench.authentication`. Figures: docs/security.md."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from api.auth.guard import Authenticator
from api.auth.tokens import Tokens
from perdure.security.keys import mint
from perdure.settings import AuthSettings
from perdure.storage.keys import NewKey
from perdure.storage.memory import MemoryStorage
from tests.support.issuer import AUDIENCE, running_issuer, signing_key


def request(name: str, value: str) -> Request:
    """A request with one credential."""
    headers = {"host": "agent.test", "content-type": "application/json", name.lower(): value}
    pairs = [(key.encode(), text.encode()) for key, text in headers.items()]
    return Request({"type": "http", "path": "/", "headers": pairs, "client": ("127.0.0.1", 1)})


async def measure(what: str, work: Callable[[], Awaitable[object]], times: int = 3000) -> None:
    """Print the median and the 99th percentile, in microseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - begun) * 1e6)
    taken.sort()
    print(f"{what:28} median {statistics.median(taken):7.1f} us   99% {taken[int(times * 0.99)]:7.1f} us")


async def main() -> None:
    """Each way in, remembered; tokens also when they have to be verified."""
    storage, key = MemoryStorage(), mint()
    await storage.add_key(NewKey(key_id=key.key_id, owner="ada", scopes=("read",), digest=key.digest))
    keys = Authenticator(AuthSettings(api_keys=True), storage)
    await measure("API key", lambda: keys.caller(request("X-API-Key", key.text)))
    proxies = Authenticator(AuthSettings(proxy_addresses="10.0.0.0/8,127.0.0.1"), storage)
    await measure("client certificate", lambda: proxies.caller(request("X-Client-Cert-Subject", "CN=ada")))
    with running_issuer() as issuer:
        issuer.publishes(*(signing_key(name) for name in ("RS256", "ES256", "EdDSA")))
        settings = AuthSettings(jwt_issuer=issuer.url, jwks_url=issuer.jwks_url, jwt_audience=AUDIENCE)
        forgetful = Tokens(settings.model_copy(update={"cache": 0.0}))
        remembering = Authenticator(settings, storage)
        for name in ("RS256", "ES256", "EdDSA"):
            token = issuer.token(signing_key(name))
            bearer = f"Bearer {token}"
            await forgetful.caller(token)  # fetches the keys
            await measure(f"{name} token", lambda: remembering.caller(request("Authorization", bearer)))  # noqa: B023
            await measure(f"{name} token, verified", lambda: forgetful.caller(token), 1000)  # noqa: B023


if __name__ == "__main__":
    asyncio.run(main())
