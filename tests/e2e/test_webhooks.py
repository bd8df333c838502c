"""Webhooks of a whole deployment: a real receiver that misbehaves in every way, and workers that are killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import pytest
from standardwebhooks.webhooks import Webhook

from perdure.security.vault import new_key
from tests.support.processes import PERDURE, Server, finished, sending, surroundings
from tests.support.receiver import Heard, Receiver, Reply, break_off, hang_up, receiving, status

from .conftest import AGENTS, Stack, at, until

T = TypeVar("T")
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


class Aside:
    """An event loop in a thread, for receivers beside a test that blocks."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._runner:  # at its end it cancels what still runs
            self._loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=50)

    @contextmanager
    def receiver(self, *script: Reply) -> Iterator[Receiver]:
        opened = receiving(*script)
        receiver = self.run(opened.__aenter__())
        try:
            yield receiver
        finally:
            self.run(opened.__aexit__(None, None, None))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def aside() -> Iterator[Aside]:
    aside = Aside()
    yield aside
    aside.close()


@pytest.fixture
def pushing(stack: Stack) -> Stack:
    stack.settings |= {
        "AGENT": str(AGENTS / "pushing.py"),
        "WEBHOOKS__KEYS": new_key(),
        "WEBHOOKS__ALLOW": "127.0.0.1/32",
        "WEBHOOKS__INTERVAL": "0.1",
        "WEBHOOKS__TIMEOUT": "1",
        "WEBHOOKS__BREAKER_FAILURES": "100",
        "WEBHOOK_SECRETS": SECRET,
    }
    return stack


def send(server: Server, receiver: Receiver, text: str, *, blocking: bool = True, **config: Any) -> str:
    """A task with a webhook, in 1.0; its id."""
    hook = {"url": receiver.url, "token": "secret-token", **config}
    params = {
        "message": {"messageId": text, "role": "ROLE_USER", "parts": [{"text": text}]},
        "configuration": {"taskPushNotificationConfig": hook, "returnImmediately": not blocking},
    }
    return str(server.call("SendMessage", params)["task"]["id"])


def hurried(stack: Stack) -> bool:
    """Whatever waits for another try is due now: the pauses are hours."""
    stack.run("UPDATE webhook_configs SET due_at = now() WHERE due_at IS NOT NULL AND lease_token IS NULL")
    return True


def all_are_delivered(stack: Stack) -> bool:
    return hurried(stack) and not stack.rows("SELECT FROM webhook_deliveries WHERE state <> 'delivered'")


def first_times(heard: list[Heard]) -> list[str]:
    """What was told, each delivery where it first came."""
    return [each.state for each in {each.id: each for each in reversed(heard)}.values()][::-1]


def slowly(seconds: float) -> Reply:
    """Answer well, but too late."""

    async def reply(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await status(200)(heard, writer)

    return reply


def test_nothing_is_lost_whatever_a_receiver_does(pushing: Stack, aside: Aside) -> None:
    """It fails, is slow, closes early, breaks off, redirects, goes away for a while. Ids stay, the order holds."""
    server, _ = pushing.front_door()
    workers = [pushing.worker(), pushing.arq_worker()]
    script = [status(500), slowly(3), hang_up, break_off, status(302, Location="/"), status(429), status(404)]
    with aside.receiver(*script) as receiver:
        tasks = [send(server, receiver, f"word-{number}") for number in range(4)]
        until(lambda: hurried(pushing) and len(receiver.heard) > len(script))
        aside.run(receiver.stop())
        tasks += [send(server, receiver, f"away-{number}") for number in range(4)]
        refused = "SELECT FROM webhook_attempts WHERE status IS NULL AND error LIKE '%connection%'"
        until(lambda: len(pushing.rows(refused)) >= 4)
        aside.run(receiver.start())
        until(lambda: all_are_delivered(pushing))
    for task_id in tasks:
        told = [each for each in receiver.heard if each.json[_member(each)]["taskId"] == task_id]
        assert first_times(told) == ["working", "artifact", "completed"]
        bodies: dict[str, set[bytes]] = {}
        for each in told:
            bodies.setdefault(each.id, set()).add(each.body)
            Webhook(SECRET).verify(each.body, each.headers)
            assert each.headers["x-a2a-notification-token"] == "secret-token"
        assert [len(each) for each in bodies.values()] == [1, 1, 1]
        in_order = [each.id for each in told]
        assert in_order == sorted(in_order, key=list(dict.fromkeys(in_order)).index)
    assert not any("secret-token" in line for worker in workers for line in worker.log)


def _member(heard: Heard) -> str:
    return "artifactUpdate" if heard.state == "artifact" else "statusUpdate"


def test_a_worker_is_killed_in_mid_delivery(pushing: Stack, aside: Aside) -> None:
    pushing.settings["WEBHOOKS__TIMEOUT"] = "30"

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    server, _ = pushing.front_door()
    with aside.receiver(never) as receiver:
        victim = pushing.worker()
        task_id = send(server, receiver, "hello")
        until(lambda: len(receiver.heard) == 1)
        victim.signal(signal.SIGKILL)
        victim.ended()
        pushing.worker()
        pushing.run("UPDATE webhook_configs SET lease_until = now()")  # 45 s
        until(lambda: all_are_delivered(pushing))
    first, second, *_ = receiver.heard
    assert (first.id, first.body) == (second.id, second.body)
    assert first_times(receiver.heard) == ["working", "artifact", "completed"]
    assert at(server, task_id, "completed")


def test_a_slow_receiver_delays_no_task_and_no_other_receiver(pushing: Stack, aside: Aside) -> None:
    pushing.settings |= {"WEBHOOKS__TIMEOUT": "30", "WEBHOOKS__PER_ENDPOINT": "2"}
    pushing.settings |= {"WEBHOOKS__CONCURRENCY": "5", "WORKER__SLOTS": "2"}
    gate = asyncio.Event()

    async def slow(*_: Any) -> None:
        await gate.wait()

    async def opened() -> None:
        gate.set()

    server, _ = pushing.front_door()
    pushing.worker()
    with aside.receiver() as slow_one, aside.receiver() as quick_one:
        slow_one.reply = slow
        with ThreadPoolExecutor(4) as clients:
            tasks = list(clients.map(lambda number: send(server, slow_one, f"slow-{number}"), range(8)))
        assert all(
            at(server, task_id, "completed") for task_id in tasks
        )  # each send waited for its task alone
        until(lambda: len(slow_one.heard) == 2)
        send(server, quick_one, "quick")
        until(lambda: len(quick_one.heard) == 3)
        assert (len(slow_one.heard), slow_one.most) == (2, 2)
        aside.run(opened())


def test_an_operator_sees_with_a_task_what_was_told_to_its_webhook(pushing: Stack, aside: Aside) -> None:
    server, _ = pushing.front_door()
    pushing.worker()
    env = surroundings(**pushing.settings)

    def shown(*options: str) -> str:
        command = [PERDURE, "tasks", "show", task_id, *options]
        return finished(command, cwd=pushing.folder, env=env).stdout

    with aside.receiver(status(200)) as receiver:
        receiver.reply = status(503)
        task_id = send(server, receiver, "hello")
        until(lambda: pushing.rows("SELECT FROM webhook_attempts WHERE status = 503") != [])
        told = json.loads(shown("--json"))["deliveries"]
        text = shown()
    assert [each["state"] for each in told] == ["delivered", "waiting", "waiting"]
    assert [each["lastAttempt"] and each["lastAttempt"]["status"] for each in told] == [200, 503, None]
    origin = receiver.url.rpartition("/")[0]
    rows = [line.split() for line in text.splitlines() if line.startswith(origin)]
    assert [row[:3] for row in rows] == [
        [origin, str(told[0]["event"]), "delivered"],
        [origin, str(told[1]["event"]), "waiting"],
        [origin, str(told[2]["event"]), "waiting"],
    ]
    assert "503" in rows[1]


def test_gone_is_the_end_until_it_is_enabled(pushing: Stack, aside: Aside) -> None:
    """By the command line, as its operator would; and a replay of all of it."""
    server, _ = pushing.front_door()
    pushing.worker()
    env = surroundings(**pushing.settings)

    def command(*words: str) -> str:
        ended = finished([PERDURE, "webhooks", *words], cwd=pushing.folder, env=env)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    with aside.receiver(status(410)) as receiver:
        task_id = send(server, receiver, "hello", id="mine")
        until(lambda: "disabled" in command("list", "--task", task_id))
        assert len(receiver.heard) == 1
        assert "enabled" in command("enable", task_id, "mine")
        until(lambda: all_are_delivered(pushing))
        assert first_times(receiver.heard) == ["working", "artifact", "completed"]
        assert command("replay", "--task", task_id) == "3 deliveries are sent now\n"
        until(lambda: len(receiver.heard) == 7)
        again = [each.id for each in receiver.heard]
        assert again[1:4] == again[4:]
        assert '"status": 410' in command("attempts", again[0], "--json")


def test_nothing_of_a_secret_is_in_the_database(pushing: Stack, aside: Aside) -> None:
    server, _ = pushing.front_door()
    with aside.receiver() as receiver:
        auth = {"authentication": {"scheme": "Bearer", "credentials": "my-credentials"}}
        send(server, receiver, "hello", blocking=False, **auth)
        [row] = pushing.rows("SELECT webhook_configs::text AS row FROM webhook_configs")
    assert "secret-token" not in row["row"]
    assert "my-credentials" not in row["row"]
    assert "/hook" not in row["row"]


def test_without_a_key_nothing_starts(pushing: Stack) -> None:
    del pushing.settings["WEBHOOKS__KEYS"]
    for words in (["serve", "--port", "0"], ["worker"]):
        ended = finished([PERDURE, *words], cwd=pushing.folder, env=surroundings(**pushing.settings))
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert "perdure webhooks key" in ended.stderr


def test_the_operators_own_webhook_hears_of_every_task(pushing: Stack, aside: Aside) -> None:
    with aside.receiver() as receiver:
        pushing.settings |= {"WEBHOOK_URL": receiver.url, "WEBHOOK_TOKEN": "mine"}
        server, _ = pushing.front_door()
        pushing.worker()
        for number in range(3):
            server.call("message/send", sending(f"word-{number}"))
        until(lambda: len(receiver.heard) == 9)
        assert {each.headers["x-a2a-notification-token"] for each in receiver.heard} == {"mine"}
