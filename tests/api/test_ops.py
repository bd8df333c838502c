"""The operators' page: who may come in, what may act, and that errors are pages. What people do with it: tests/browser."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from api.app import create_app
from api.ops.desk import Desk
from api.ops.live import changed
from api.own_port import OwnPort
from perdure.errors import StorageUnavailable
from perdure.settings import AuthSettings, WorkerSettings
from perdure.storage.memory import MemoryStorage
from perdure.storage.operators import WorkerBeat
from perdure.storage.webhooks import Disabled
from perdure.tasks import ANONYMOUS, Notice, TaskState
from tests.api.front import URL, Front, opened_front
from tests.contract.test_webhooks import ends, hooked, taken
from tests.support.stories import id_of, started

KEY = "k" * 40
ON = AuthSettings(bootstrap_key=SecretStr(KEY))


def _basic(password: str, name: str = "ann") -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


async def _task(front: Front, **headers: str) -> str:
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi <b>there"}]}
    params = {"message": message, "configuration": {"returnImmediately": True}}
    result = await front.call("SendMessage", params, A2A_Version="1.0", **headers)
    return str(result["task"]["id"])


# ---------------------------------------------------------------------- who may come in


async def test_a_browser_is_asked_for_a_key() -> None:
    async with opened_front(auth=ON) as front:
        answer = await front.http.get("/ops")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].count("Basic ") == 1


@pytest.mark.parametrize(
    "headers", [_basic(KEY), _basic(KEY, ""), {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}]
)
async def test_a_key_opens_it(headers: dict[str, str]) -> None:
    async with opened_front(auth=ON) as front:
        assert (await front.http.get("/ops", headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", [_basic("wrong" * 10), {"Authorization": "Basic %%%"}])
async def test_another_does_not(headers: dict[str, str]) -> None:
    async with opened_front(auth=ON) as front:
        assert (await front.http.get("/ops", headers=headers)).status_code == 401


async def test_a_password_is_no_key_elsewhere() -> None:
    async with opened_front(auth=ON) as front:
        assert (await front.http.get("/tasks", headers=_basic(KEY))).status_code == 401


async def test_styles_and_scripts_are_for_everybody() -> None:
    async with opened_front(auth=ON) as front:
        for name in ("ops.css", "ops.js", "icon.svg", "htmx/htmx.min.js", "htmx/sse.min.js"):
            assert (await front.http.get(f"/ops/assets/{name}")).status_code == 200
        assert (await front.http.get("/ops/assets/../ops/pages.py", headers=_basic(KEY))).status_code == 404


async def test_without_the_scope_it_stays_shut() -> None:
    settings = AuthSettings(proxy_addresses="127.0.0.1", proxy_scopes="read,write")
    async with opened_front(auth=settings) as front:
        answer = await front.http.get("/ops", headers={"X-Client-Cert-Subject": "CN=bob"})
        assert answer.status_code == 403
        assert "may not operate" in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("agent.test", 200),
        ("localhost:3773", 200),
        ("127.0.0.1:3773", 200),
        ("api:80", 200),
        ("evil.example", 421),
    ],
)
async def test_a_name_that_was_pointed_here_is_refused_while_everybody_may_operate(
    front: Front, host: str, status: int
) -> None:
    assert (await front.http.get("/ops", headers={"Host": host})).status_code == status


# ---------------------------------------------------------------------- what may act


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://agent.test"}, 303),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 303),
    ],
)
async def test_another_sites_form_does_nothing(front: Front, headers: dict[str, str], status: int) -> None:
    task_id = await _task(front)
    answer = await front.http.post(f"/ops/tasks/{task_id}/cancel", headers=headers)
    assert answer.status_code == status
    assert (await front.storage.task_line(UUID(task_id))).state == (
        "canceled" if status == 303 else "submitted"
    )


async def test_who_acted_stands_in_the_audit() -> None:
    async with opened_front(auth=ON) as front:
        task_id = await _task(front, Authorization=f"Bearer {KEY}")
        await front.http.post(f"/ops/tasks/{task_id}/cancel", headers=_basic(KEY))
        [action] = await front.storage.list_actions()
        assert (action.actor, action.action) == ("bootstrap", "cancel")


async def test_looking_changes_nothing(front: Front) -> None:
    task_id = await _task(front)
    assert (await front.http.get(f"/ops/tasks/{task_id}/cancel")).status_code == 405
    assert list(await front.storage.list_actions()) == []


# ---------------------------------------------------------------------- how it answers


async def test_pages_hold_browsers_to_themselves(front: Front) -> None:
    answer = await front.http.get("/ops")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<style" not in answer.text
    assert " style=" not in answer.text
    assert "onclick" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


async def test_what_callers_say_is_escaped(front: Front) -> None:
    task_id = await _task(front)
    for path in ("/ops/tasks", f"/ops/tasks/{task_id}"):
        page = (await front.http.get(path)).text
        assert "hi &lt;b&gt;there" in page
        assert "<b>there" not in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ops/tasks/0190b4a0-1f2e-7c3d-8a9b-123456789abc", 404),
        ("/ops/tasks?state=asleep", 400),
        ("/ops/tasks?older=soon", 400),
        ("/ops/tasks?text=" + "x" * 501, 400),
        ("/ops/tasks?text=%00", 400),
        ("/ops/tasks?before=there", 200),
        ("/ops/bulk?action=delete", 400),
        ("/ops/conversation?owner=a&context=b", 404),
        ("/ops/tasks?text=100%25%20<script>", 200),
    ],
)
async def test_what_is_asked_wrongly_is_a_page(front: Front, path: str, status: int) -> None:
    answer = await front.http.get(path)
    assert answer.status_code == status
    assert "<h1>" in answer.text
    assert "<script>" not in answer.text


async def test_what_cannot_be_done_is_a_page(front: Front) -> None:
    task_id = await _task(front)
    answer = await front.http.post(f"/ops/tasks/{task_id}/retry")
    assert answer.status_code == 409
    assert "only failed, canceled and rejected ones are retried" in answer.text
    assert (await front.http.post(f"/ops/tasks/{task_id}/explode")).status_code == 404


class _Away(MemoryStorage):
    async def figures(self) -> Any:
        raise StorageUnavailable("postgres at secret-host")


async def test_without_postgres_it_says_so() -> None:
    async with opened_front(storage=_Away()) as front:
        answer = await front.http.get("/ops")
        assert answer.status_code == 503
        assert "Postgres does not answer" in answer.text
        assert "secret-host" not in answer.text


async def test_a_port_of_its_own_has_it_alone(front: Front) -> None:
    transport = httpx.ASGITransport(OwnPort(front.app, port=9000))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://agent.test:9000") as own,
        httpx.AsyncClient(transport=transport, base_url="http://agent.test:80") as open_one,
    ):
        for path, inside, outside in (
            ("/ops", 200, 404),
            ("/metrics", 200, 404),
            ("/healthz", 200, 200),
            ("/.well-known/agent-card.json", 404, 200),
        ):
            assert (await own.get(path)).status_code == inside
            assert (await open_one.get(path)).status_code == outside


async def test_behind_row_security_it_says_what_it_cannot_see(front: Front) -> None:
    walled = front.settings.model_copy(
        update={"storage": front.settings.storage.model_copy(update={"row_security": True})}
    )
    app = create_app(front.agent, front.storage, front.queue, front.watch, walled)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as http:
        answer = await http.get("/ops")
        assert answer.status_code == 503
        assert "WORKER_DATABASE_URL" in answer.text


async def test_a_blocked_worker_is_told_wherever_somebody_looks_for_it() -> None:
    async with opened_front(worker=WorkerSettings(beat_interval=1e-9)) as front:
        await front.storage.beat(
            WorkerBeat(worker_id="worker-1", slots=4, running=1, version="1", name="host:7")
        )
        task_id = id_of(await started(front.storage))
        assert "1 worker is blocked" in (await front.http.get("/ops")).text
        assert "blocked for" in (await front.http.get("/ops/workers")).text
        page = (await front.http.get(f"/ops/tasks/{task_id}")).text
        assert "Its worker host:7 has given no sign of life" in page


async def test_webhooks_are_shown_with_what_their_receivers_said(front: Front) -> None:
    task_id = await hooked(front.storage, url="https://hook.test/secret-path")
    await front.storage.cancel_task("me", task_id)
    [claimed] = await taken(front.storage)
    page = await front.http.get("/ops/webhooks")
    assert "https://hook.test" in page.text
    assert "secret-path" not in page.text
    await ends(front.storage, claimed, Disabled("it answered 410"), status=410, answer="<b>gone</b>")
    path = f"/ops/webhooks/{claimed.delivery_id}"
    for shown in (path, f"/ops/tasks/{task_id}", "/ops/webhooks?state=waiting"):
        assert "410" in (await front.http.get(shown)).text
    assert "&lt;b&gt;gone" in (await front.http.get(path)).text
    assert (await front.http.post(f"{path}/enable")).status_code == 303
    assert len(await taken(front.storage)) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ops/webhooks", 200),
        ("/ops/webhooks?before=x&at=y", 200),
        ("/ops/webhooks?state=lost", 400),
        ("/ops/webhooks/0190b4a0-1f2e-7c3d-8a9b-123456789abc", 404),
    ],
)
async def test_a_page_of_webhooks_takes_what_it_gets(front: Front, path: str, status: int) -> None:
    assert (await front.http.get(path)).status_code == status


async def test_an_open_page_hears_of_its_task_and_does_not_hold_up_a_stop(front: Front) -> None:
    task_id = UUID(await _task(front))
    desk = Desk(front.storage, front.queue, front.watch, front.settings, "echo", public_host="")
    stream = changed(desk, task_id)
    next_one = asyncio.ensure_future(anext(stream))
    await front.storage.cancel_task(ANONYMOUS, task_id)
    async with asyncio.timeout(5):
        while not front.watch._followers.get(str(task_id)):  # it listens
            await asyncio.get_running_loop().run_in_executor(None, int)
    await front.queue.announce([Notice(task_id, 2, TaskState.CANCELED)])
    assert (await next_one).event == "changed"
    last = asyncio.ensure_future(anext(stream))
    desk.leaving.set()
    with pytest.raises(StopAsyncIteration):
        await last


async def test_the_server_that_stops_ends_open_pages() -> None:
    async with opened_front() as front:
        front.app.state.hang_up()
        answer = await front.http.get("/ops/live")
        assert answer.status_code == 200
        assert "changed" not in answer.text


# ---------------------------------------------------------------------- where nothing is


@pytest.mark.parametrize("path", ["/ops/nowhere", "/ops/tasks/nothing", "/ops/a/b/c", "/ops/workers/x/drain"])
async def test_a_browser_at_a_wrong_address_is_led_back(path: str) -> None:
    async with opened_front() as front:
        page = await front.http.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert page.status_code == 404
        assert "There is no such page" in page.text
        assert 'href="/ops"' in page.text
        assert "Content-Security-Policy" in page.headers
        program = await front.http.get(path, headers={"Accept": "*/*"})
        assert program.status_code in (400, 404, 405)
        assert program.headers["Content-Type"] == "application/json"


async def test_a_slash_too_many_leads_to_the_page() -> None:
    async with opened_front() as front:
        found = await front.http.get("/ops/workers/", headers={"Accept": "text/html"}, follow_redirects=True)
        assert (found.status_code, found.url.path) == (200, "/ops/workers")
