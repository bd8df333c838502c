"""Nobody passes the guard unseen: every route, every way to fail, in every dialect; and what a known caller may do."""

from __future__ import annotations

import asyncio
import base64
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from structlog.testing import capture_logs

from api.app import PUBLIC
from api.auth import OPERATE, Caller, identify, refusals, require
from api.auth.credentials import Refused
from api.auth.keys import KeyRing
from api.auth.refusals import RefusalLog
from api.jsonrpc import METHODS
from api.rest import BINDINGS
from api.scopes import NEEDED
from perdure.errors import StorageUnavailable
from perdure.security.keys import digest_of, matches, mint, parse
from perdure.security.schemes import SCOPES
from perdure.settings import AuthSettings
from perdure.storage import Storage
from perdure.storage.keys import ApiKey, NewKey
from perdure.storage.memory import MemoryStorage
from perdure.tasks import ANONYMOUS
from tests.api.front import Front, Json, Live, at_once, message, message03, opened_front
from tests.support.storages import Clock

Opens = Callable[..., AbstractAsyncContextManager[Front]]
KEYS = AuthSettings(api_keys=True)
FRESH_KEYS = AuthSettings(api_keys=True, cache=0)
STRANGER = 'Bearer realm="perdure"'
INVALID = 'Bearer realm="perdure", error="invalid_token"'


async def key_for(
    storage: Storage, owner: str = "ada", scopes: tuple[str, ...] = SCOPES, expires: float | None = None
) -> str:
    """A key, stored; the whole text of it."""
    minted = mint()
    await storage.add_key(
        NewKey(key_id=minted.key_id, owner=owner, scopes=scopes, digest=minted.digest, expires=expires)
    )
    return minted.text


def id_of(key: str) -> str:
    parts = parse(key)
    assert parts is not None
    return parts[0]


@pytest.fixture
async def guarded() -> AsyncIterator[Front]:
    """A front door that takes API keys."""
    async with opened_front(auth=KEYS) as front:
        yield front


@pytest.fixture
async def key(guarded: Front) -> str:
    return await key_for(guarded.storage)


async def lists(front: Front, **headers: str) -> httpx.Response:
    """A request that costs nothing."""
    return await front.post("tasks/list", {}, **headers)


# ---------------------------------------------------------------------- every route


def requests_of(routes: Iterable[BaseRoute], above: str = "") -> Iterator[tuple[str, str]]:
    """A request for each path and HTTP method that is routed."""
    for route in routes:
        if isinstance(route, Mount):
            yield from requests_of(route.routes, above + route.path)
            continue
        assert isinstance(route, Route), f"{route!r}: a kind of route that this test does not walk through"
        path = re.sub(r"{(\w+)(:\w+)?}", "x", above + route.path)
        for method in sorted(route.methods or ()):
            yield method, path


async def test_no_route_is_open_but_the_card_the_probes_and_the_docs(guarded: Front, key: str) -> None:
    everybodys = {
        "/.well-known/agent-card.json",
        "/.well-known/agent.json",
        "/.well-known/jwks.json",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/docs/docs.js",
        "/docs/swagger-ui.css",
        "/docs/swagger-ui-bundle.js",
    }
    files = {
        path for path in PUBLIC if path.startswith("/ops/assets/")
    }  # style sheets and scripts, the same everywhere
    assert set(PUBLIC) - files == everybodys
    everybodys |= files
    walked = list(requests_of(guarded.app.routes))
    assert len(walked) > 50
    for method, path in walked:
        response = await guarded.http.request(method, path)
        assert (response.status_code == 401) == (path not in everybodys), (method, path, response)
        if path not in everybodys:
            assert response.headers.get_list("WWW-Authenticate")[0] == STRANGER
            async with Live(guarded.app, method, path, headers={"X-API-Key": key}) as known:
                await known.starts()  # some are streams
                assert known.status != 401, (method, path)


async def test_a_route_that_is_added_is_behind_the_guard(guarded: Front, key: str) -> None:
    async def whoami(request: Request) -> Response:
        return PlainTextResponse(identify(request).owner)

    guarded.app.router.routes.insert(0, Route("/new", whoami))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded.app), base_url="http://x") as http:
        assert (await http.get("/new")).status_code == 401
        assert (await http.get("/new", headers={"X-API-Key": key})).text == "ada"


async def test_paths_that_are_nearly_public_are_not(guarded: Front) -> None:
    for path in (
        "/healthz/",
        "//healthz",
        "/healthz/..",
        "/HEALTHZ",
        "/healthz%2f",
        "/.well-known/agent-card.json/tasks",
        "/nothing",
        "/docs/../tasks",
        "/docs/%2e%2e/tasks",
    ):
        response = await guarded.http.get(path)
        assert response.status_code == 401, path


async def test_what_the_guard_has_not_seen_has_no_caller() -> None:
    with pytest.raises(KeyError):
        identify(Request({"type": "http"}))


async def test_other_connections_than_http_are_not_served(guarded: Front) -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is read or answered")

    scope: Json = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    await guarded.app(scope, never, never)


async def test_with_authentication_off_everybody_is_the_anonymous_caller(front: Front) -> None:
    sent = await front.call("SendMessage", at_once())
    assert await front.stored() == 1, f"owned by {ANONYMOUS}"
    assert (await front.call("GetTask", {"id": sent["task"]["id"]}))["id"] == sent["task"]["id"]


# ---------------------------------------------------------------------- API keys


async def test_a_key_may_stand_in_either_header(open_front: Opens) -> None:
    async with open_front(auth=KEYS) as front:
        key = await key_for(front.storage)
        for headers in (
            {"X_API_Key": key},
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer  {key}"},
        ):
            assert (await lists(front, **headers)).status_code == 200
        sent = (await front.post("SendMessage", at_once(), X_API_Key=key)).json()["result"]["task"]
        assert (await front.storage.load_task("ada", UUID(sent["id"]))).owner == "ada"


def wrong_keys(key: str) -> Iterator[tuple[str, Json]]:
    """What a stranger could send, by the reason that the log has for it."""
    other = mint()
    yield "a wrong secret", {"X_API_Key": mint(id_of(key)).text}
    yield "an API key that is unknown", {"X_API_Key": other.text}
    yield "no such key", {"X_API_Key": "open sesame"}
    yield "no such key", {"Authorization": "Bearer open-sesame"}
    yield "a credential that is empty or too long", {"X_API_Key": ""}
    yield "a credential that is empty or too long", {"Authorization": "Bearer "}
    yield "a credential that is empty or too long", {"X_API_Key": "k" * 16_385}
    yield "another scheme than Bearer", {"Authorization": "Basic YWRhOmFkYQ=="}
    yield "another scheme than Bearer", {"Authorization": key}
    yield "several credentials", {"X_API_Key": key, "Authorization": f"Bearer {key}"}


async def test_every_wrong_key_is_refused_with_a_challenge_and_a_line_in_the_log(
    guarded: Front, key: str
) -> None:
    secret = key.rpartition("_")[2]
    for reason, headers in wrong_keys(key):
        with capture_logs() as logged:
            response = await lists(guarded, **headers)
        assert response.status_code == 401, reason
        errors = {"another scheme than Bearer": "", "several credentials": ', error="invalid_request"'}
        assert response.headers["WWW-Authenticate"] == STRANGER + errors.get(
            reason, ', error="invalid_token"'
        )
        [line] = [line for line in logged if line["event"] == "auth.refused"] or [{"reason": reason}]
        assert line["reason"] == reason
        assert secret not in repr(logged) + response.text
        assert not any(value in repr(logged) for value in headers.values() if len(value) > 30)


async def test_who_is_refused_is_told_in_the_log_but_not_each_time(guarded: Front) -> None:
    unknown = mint()
    with capture_logs() as logged:
        for _ in range(20):
            await lists(guarded, X_API_Key=unknown.text)
        await lists(guarded)
    lines = [line for line in logged if line["event"] == "auth.refused"]
    assert [(line["reason"], line["client"]) for line in lines] == [
        ("an API key that is unknown", "127.0.0.1"),
        ("no credential", "127.0.0.1"),
    ]
    assert lines[0]["key_id"] == unknown.key_id


async def test_the_wrong_ones_cannot_be_told_apart(guarded: Front, key: str) -> None:
    revoked = await key_for(guarded.storage)
    await guarded.storage.revoke_key(id_of(revoked))
    answers = [
        await lists(guarded, X_API_Key=text) for text in (mint(id_of(key)).text, mint().text, revoked, "x")
    ]
    assert (
        len({(answer.status_code, answer.text, answer.headers["WWW-Authenticate"]) for answer in answers})
        == 1
    )


async def test_an_expired_key_is_refused(open_front: Opens, clock: Clock) -> None:
    async with open_front(auth=FRESH_KEYS) as front:
        key = await key_for(front.storage, expires=60)
        assert (await lists(front, X_API_Key=key)).status_code == 200
        await clock.age_key(id_of(key), 61)
        assert (await lists(front, X_API_Key=key)).status_code == 401


async def test_a_rotated_key_overlaps(open_front: Opens, clock: Clock) -> None:
    async with open_front(auth=FRESH_KEYS) as front:
        old = await key_for(front.storage)
        new = mint(id_of(old))
        await front.storage.rotate_key(new.key_id, new.digest, overlap=60)
        for key in (old, new.text):
            assert (await lists(front, X_API_Key=key)).status_code == 200
        await clock.age_key(new.key_id, 61)
        assert (await lists(front, X_API_Key=old)).status_code == 401
        assert (await lists(front, X_API_Key=new.text)).status_code == 200


async def test_the_first_key_stands_in_the_settings() -> None:
    text = "k" * 32
    async with opened_front(auth=AuthSettings(bootstrap_key=SecretStr(text))) as front:
        assert (await lists(front, X_API_Key=text)).status_code == 200
        assert (await lists(front, Authorization=f"Bearer {text}")).status_code == 200
        assert (await lists(front, X_API_Key=text + "k")).status_code == 401
        assert (await lists(front, X_API_Key=mint().text)).status_code == 401


# ---------------------------------------------------------------------- remembering them


class Counting(MemoryStorage):
    """Counts how often keys are looked up, and can be away."""

    lookups = 0
    away = False

    async def load_key(self, key_id: str) -> ApiKey | None:
        self.lookups += 1
        await asyncio.sleep(0)  # as a database would
        if self.away:
            raise StorageUnavailable("away")
        return await super().load_key(key_id)


async def test_a_request_costs_no_query_and_a_revocation_takes_effect_in_time() -> None:
    storage = Counting()
    async with opened_front(storage=storage, auth=AuthSettings(api_keys=True, cache=0.05)) as front:
        key = await key_for(storage)
        await asyncio.gather(*(lists(front, X_API_Key=key) for _ in range(20)))
        assert storage.lookups == 1
        await storage.revoke_key(id_of(key))
        since = time.monotonic()
        while (await lists(front, X_API_Key=key)).status_code == 200:
            assert time.monotonic() - since < 2
        assert storage.lookups == 2


async def test_unknown_ids_are_remembered_too() -> None:
    storage = Counting()
    async with opened_front(storage=storage, auth=KEYS) as front:
        stranger = mint()
        for _ in range(5):
            assert (await lists(front, X_API_Key=stranger.text)).status_code == 401
        assert storage.lookups == 1


async def test_a_key_that_cannot_be_looked_up_is_no_wrong_key() -> None:
    storage = Counting()
    async with opened_front(storage=storage, auth=KEYS) as front:
        key = await key_for(storage)
        storage.away = True
        response = await lists(front, X_API_Key=key)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        storage.away = False
        assert (await lists(front, X_API_Key=key)).status_code == 200


async def test_whoever_waits_for_a_lookup_may_leave() -> None:
    storage = Counting()
    ring, key = KeyRing(storage, memory=60), await key_for(storage)
    first = asyncio.create_task(ring.caller(key))
    second = asyncio.create_task(ring.caller(key))
    await asyncio.sleep(0)
    first.cancel()
    caller = await second
    assert caller is not None
    assert caller.owner == "ada"
    assert storage.lookups == 1


async def test_the_last_use_is_noted(guarded: Front, key: str) -> None:
    await lists(guarded, X_API_Key=mint(id_of(key)).text)
    [stored] = await guarded.storage.list_keys()
    assert stored.last_used_at is None, "a wrong secret is no use"
    await lists(guarded, X_API_Key=key)
    [stored] = await guarded.storage.list_keys()
    assert stored.last_used_at is not None


def test_a_digest_is_computed_where_there_is_none_to_compare() -> None:
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3000):
        for known, measured in times.items():
            digests = [_DIGEST] if known else []
            begun = time.perf_counter()
            matches("wrong", digests)
            measured.append(time.perf_counter() - begun)
    one, other = (statistics.median(measured) for measured in times.values())
    assert 0.6 < one / other < 1.6, (one, other)


_DIGEST = digest_of("right")


async def test_an_unknown_id_costs_what_a_wrong_secret_costs() -> None:
    storage = MemoryStorage()
    key = await key_for(storage)
    wrong, unknown = mint(id_of(key)).text, mint().text
    ring = KeyRing(storage, memory=60)
    times: dict[str, list[float]] = {wrong: [], unknown: []}
    for _ in range(3000):
        for text, measured in times.items():
            begun = time.perf_counter()
            with pytest.raises(Exception, match="not valid"):
                await ring.caller(text)
            measured.append(time.perf_counter() - begun)
    one, other = (statistics.median(measured) for measured in times.values())
    assert 0.8 < one / other < 1.25, (one, other)


# ---------------------------------------------------------------------- the answers, in every dialect


async def test_a_refusal_is_an_answer_of_the_requests_own_kind(guarded: Front) -> None:
    new = await guarded.post("SendMessage", at_once())
    assert (new.status_code, new.json()["id"], new.json()["error"]["code"]) == (401, 7, -32600)
    [detail] = new.json()["error"]["data"]
    assert (detail["reason"], detail["domain"]) == ("UNAUTHENTICATED", "a2a-protocol.org")
    old = await guarded.post("message/send", {"message": message03()})
    assert (old.status_code, old.json()["id"], old.json()["error"]["code"]) == (401, 7, -32600)
    assert "data" not in old.json()["error"]
    stream = await guarded.post("message/stream", {"message": message03()})
    assert (stream.status_code, stream.headers["Content-Type"]) == (401, "application/json")
    rest = await guarded.http.post("/message:send", json={"message": message()})
    assert (rest.status_code, rest.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert "type" not in rest.json()
    rest03 = await guarded.http.get("/v1/tasks/x")
    assert (rest03.status_code, rest03.json()["type"]) == (401, "InvalidRequestError")
    assert await guarded.stored() == 0


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[1]", b'{"id": true}', b'{"id": 7, "x": "' + b"x" * 70_000 + b'"}']
)
async def test_what_cannot_be_read_is_refused_without_an_id(guarded: Front, body: bytes) -> None:
    response = await guarded.http.post("/", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["id"]) == (401, None)


# ---------------------------------------------------------------------- scopes


def test_every_operation_needs_a_scope() -> None:
    operations = {method.answer or method.stream for method in METHODS.values()}
    operations |= {answer or streamed for _, _, paths in BINDINGS for _, _, answer, streamed in paths}
    assert set(NEEDED) == operations
    assert set(NEEDED.values()) <= {"read", "write"}


def calls() -> Iterator[tuple[str, str, str, Any]]:
    """Every operation of every dialect: its scope, HTTP method, path and body."""
    for name, operation in METHODS.items():
        body = {"jsonrpc": "2.0", "id": 7, "method": name, "params": {}}
        yield _needed(operation.answer or operation.stream), "POST", "/", body
    for prefix, _, paths in BINDINGS:
        for path, methods, answer, streamed in paths:
            for method in methods:
                yield _needed(answer or streamed), method, re.sub(r"{\w+}", "x", prefix + path), {}


def _needed(operation: Callable[..., Any] | None) -> str:
    assert operation is not None
    return NEEDED[operation]


@pytest.mark.parametrize("missing", ["read", "write"])
async def test_every_operation_is_refused_without_its_scope(guarded: Front, missing: str) -> None:
    others = tuple(scope for scope in SCOPES if scope != missing)
    key = await key_for(guarded.storage, scopes=others)
    asked = 0
    for needed, method, path, body in calls():
        response = await guarded.http.request(method, path, json=body, headers={"X-API-Key": key})
        assert (response.status_code == 403) == (needed == missing), (method, path, body)
        if needed == missing:
            asked += 1
            said = f'Bearer realm="perdure", error="insufficient_scope", scope="{missing}"'
            assert response.headers["WWW-Authenticate"] == said
            error = response.json()["error"]
            assert error.get("status") == "PERMISSION_DENIED" or error["code"] == -32600
            assert path != "/" or response.json()["id"] == 7
    assert asked > 20


async def test_no_scope_implies_another(guarded: Front) -> None:
    """`operate` is for operators' routes and opens nothing else; everything else does not open them."""

    async def operators(request: Request) -> Response:
        caller: Caller = require(request, OPERATE)
        return PlainTextResponse(caller.owner)

    guarded.app.router.routes.insert(0, Route("/operators", operators))
    app = httpx.ASGITransport(guarded.app)
    async with httpx.AsyncClient(transport=app, base_url="http://x") as http:
        for scopes, status in ((("read", "write"), 403), (("operate",), 200)):
            key = await key_for(guarded.storage, scopes=scopes)
            response = await http.get("/operators", headers={"X-API-Key": key})
            assert response.status_code == status
            if status == 403:
                assert response.json()["error"]["details"][0]["reason"] == "INSUFFICIENT_SCOPE"
                assert 'scope="operate"' in response.headers["WWW-Authenticate"]
        assert (await lists(guarded, X_API_Key=key)).status_code == 403


# ---------------------------------------------------------------------- browsers


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


async def page(request: Request) -> Response:
    return PlainTextResponse(require(request, OPERATE).owner)


@asynccontextmanager
async def browsing(front: Front) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with a page for operators."""
    front.app.router.routes.insert(0, Route("/ops/tasks", page, methods=["GET", "POST"]))
    transport = httpx.ASGITransport(front.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://front.test") as http:
        yield http


async def test_a_browser_asks_its_user_for_a_key_where_operators_look(guarded: Front, key: str) -> None:
    async with browsing(guarded) as http:
        asked = await http.get("/ops/tasks")
        challenges = asked.headers.get_list("WWW-Authenticate")
        assert (asked.status_code, challenges) == (401, [STRANGER, 'Basic realm="perdure", charset="UTF-8"'])
        assert (await http.get("/ops/tasks", headers={"Authorization": basic(key)})).text == "ada"
        for wrong in (basic("wrong"), "Basic !", "Basic " + base64.b64encode(b"\xff").decode()):
            assert (await http.get("/ops/tasks", headers={"Authorization": wrong})).status_code == 401
        for path in ("/tasks", "/opsis", "/ops%2ftasks/../../tasks"):
            refused = await http.get(path, headers={"Authorization": basic(key)})
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, STRANGER)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl
        ({"Origin": "http://front.test"}, 200),
        ({"Origin": "http://front.test", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://public.test", "Sec-Fetch-Site": "same-origin"}, 200),  # behind a proxy
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://front.test.evil.test"}, 403),
        ({"Origin": "http://front.test", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("auth", [KEYS, AuthSettings()], ids=["on", "off"])
async def test_pages_of_other_sites_cannot_make_an_operators_browser_act(
    auth: AuthSettings, headers: dict[str, str], status: int
) -> None:
    async with opened_front(auth=auth) as front, browsing(front) as http:
        said = {"Authorization": basic(await key_for(front.storage))} if auth.is_on else {}
        assert (await http.post("/ops/tasks", headers={**headers, **said})).status_code == status
        assert (await http.get("/ops/tasks", headers={**headers, **said})).status_code == 200


# ---------------------------------------------------------------------- the log of refusals


def stranger(address: str) -> Request:
    return Request({"type": "http", "headers": [], "client": (address, 1)})


def test_the_log_stays_small_whoever_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    told, refused = RefusalLog(), Refused("no credential", error="")
    with capture_logs() as logged:
        for number in range(refusals.MOST_KINDS + 500):
            told.tell(stranger(f"10.0.{number // 256}.{number % 256}"), refused)
    assert len(logged) == refusals.MOST_KINDS + 1, "one line for all that came later"
    monkeypatch.setattr(refusals, "EVERY", 0.0)
    with capture_logs() as logged:
        told.tell(stranger("192.0.2.1"), refused)
        told.tell(stranger("10.0.0.1"), refused)
    assert [line["client"] for line in logged] == ["192.0.2.1", "10.0.0.1"]


def test_the_next_line_says_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told, refused = RefusalLog(), Refused("no credential", error="")
    with capture_logs() as logged:
        for _ in range(5):
            told.tell(stranger("10.0.0.1"), refused)
        monkeypatch.setattr(refusals, "EVERY", 0.0)
        told.tell(stranger("10.0.0.1"), refused)
    assert [line.get("left_out") for line in logged] == [None, 4]
