"""Several agents behind one front door, and workers that each serve a part of them; real processes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import TaskNotFoundError

from perdure.local import LocalServices, local_services
from perdure.settings import StorageSettings
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres.moving import FIRST, Key
from tests.support.processes import PERDURE, Server, finished, surroundings, text_of

from .conftest import AGENTS, Stack, at, until
from .test_sdk_clients import request, sent, text

BOTH = f"talking={AGENTS / 'talking.py'},gated={AGENTS / 'gated.py'}"


def several(stack: Stack) -> Stack:
    """The same, for two agents."""
    del stack.settings["AGENT"]
    stack.settings["AGENTS"] = BOTH
    return stack


@pytest.fixture
def both(stack: Stack) -> Stack:
    return several(stack)


def doors(stack: Stack, server: Server) -> tuple[Server, Server]:
    """Of the two agents."""
    return stack.at_agent(server, "talking"), stack.at_agent(server, "gated")


def holder_of(stack: Stack, task_id: str) -> str:
    """Which worker had the last turn of a task."""
    [row] = stack.rows(
        "SELECT worker FROM task_events WHERE task_id = $1 AND worker IS NOT NULL ORDER BY seq DESC LIMIT 1",
        task_id,
    )
    return str(row["worker"])


def serving(both: Stack) -> dict[str, str]:
    """Agents, with the one worker that serves nothing else."""
    rows = both.rows("SELECT agents, worker_id FROM workers WHERE cardinality(agents) = 1")
    return {row["agents"][0]: row["worker_id"] for row in rows}


def test_each_worker_serves_its_part(both: Stack) -> None:
    server, front = both.front_door()
    talking, gated = doors(both, server)
    workers = {name: both.worker(name) for name in ("talking", "gated")}
    until(lambda: serving(both).keys() == workers.keys())  # a worker starts, and then says so to Postgres
    served = serving(both)
    for _ in range(3):
        said = talking.send("hello")
        assert (text_of(said), holder_of(both, said["id"])) == ("HELLO", served["talking"])
        said = gated.send("hello")
        assert (text_of(said), holder_of(both, said["id"])) == ("HELLO", served["gated"])
    assert {line["agent"] for line in settled(workers["gated"].log)} == {"gated"}
    assert front.said("serving") == 0  # it was read before


def test_operators_and_callers_at_a_terminal(both: Stack) -> None:
    server, _ = both.front_door()
    both.worker()

    def perdure(*command: str) -> str:
        env = surroundings(**both.settings)
        ended = finished([PERDURE, *command], cwd=both.folder, env=env)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert perdure("send", "hello", "--to", f"{server.url}/agents/talking").strip() == "HELLO"
    context = both.at_agent(server, "gated").send("hello")["contextId"]
    owned = ("--owner", "anonymous", "--agent", "gated")
    [line] = map(json.loads, perdure("tasks", "list", *owned, "--json").splitlines())
    assert (line["owner"], line["agent"], line["contextId"]) == ("anonymous", "gated", context)
    assert line["taskId"] in perdure("contexts", "show", "anonymous", context, "--agent", "gated")
    [worker] = json.loads(perdure("workers", "list", "--json"))
    assert worker["agents"] == ["talking", "gated"]


def settled(log: list[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log if line.startswith("{")]
    return [line for line in lines if line["event"] == "turn.settled"]


def test_a_dead_workers_task_waits_for_a_worker_of_its_agent(both: Stack) -> None:
    """The other worker puts it back into its line, and neither runs nor fails it."""
    server, _ = both.front_door()
    talking, gated = doors(both, server)
    both.worker("talking")
    first = both.worker("gated")
    gate = both.gate("gate")
    task = gated.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    first.signal(signal.SIGKILL)
    until(lambda: at(gated, task, "submitted"))
    assert text_of(talking.send("hello")) == "HELLO"
    assert at(gated, task, "submitted")
    gate.open()
    both.worker("gated")
    until(lambda: at(gated, task, "completed"))
    assert len(gate.lines) == 2
    both.log_is_whole(task)


def test_tasks_of_an_agent_without_a_worker_wait_and_are_in_nobodys_way(both: Stack) -> None:
    server, _ = both.front_door()
    talking, gated = doors(both, server)
    both.worker("talking")
    waiting = [gated.send("hello", blocking=False, contextId=f"talk {n}")["id"] for n in range(20)]
    assert text_of(talking.send("hello")) == "HELLO"
    ready = httpx.get(f"{server.url}/readyz", timeout=30).json()
    assert ready["status"] == "degraded"
    assert "no worker of the agent gated is alive" in str(ready["reasons"])
    both.worker("gated")
    until(lambda: all(at(gated, task, "completed") for task in waiting))
    until(lambda: bool(httpx.get(f"{server.url}/readyz", timeout=30).json()["status"] == "ready"))


def test_a_worker_that_was_not_told_of_others_finds_its_name(both: Stack) -> None:
    """`perdure serve a.py b.py`, `perdure worker a.py`, and no AGENTS anywhere."""
    del both.settings["AGENTS"]
    files = [str(AGENTS / f"{name}.py") for name in ("talking", "gated")]
    process, first = both.start([PERDURE, "serve", "--port", "0", *files], "serving")
    server = both.at(Server(process.popen, first["url"]))
    talking = both.at_agent(server, "talking")
    workers = [both.worker(file) for file in files]
    for _ in range(2):
        assert text_of(talking.send("hello")) == "HELLO"
    assert text_of(both.at_agent(server, "e2e").send("hello")) == "HELLO"
    assert [worker.said("worker.named") for worker in workers] == [1, 1]


def test_a_worker_that_has_served_an_only_agent_stays_with_it(both: Stack) -> None:
    both.settings |= {"AGENT": str(AGENTS / "talking.py"), "AGENTS": ""}
    server, _ = both.front_door()
    worker = both.worker(str(AGENTS / "talking.py"))
    assert text_of(server.send("hello")) == "HELLO"
    several, _ = both.front_door(AGENT="", AGENTS=BOTH)
    waiting = both.at_agent(several, "talking").send("hello", blocking=False)["id"]
    until(lambda: both.rows("SELECT FROM tasks WHERE agent = 'talking'") != [])
    for _ in range(3):
        assert text_of(server.send("hello")) == "HELLO"
    assert worker.said("worker.named") == 0
    assert both.task(waiting)["state"] == "submitted"


def test_stock_arq_serves_all_of_them(both: Stack) -> None:
    server, _ = both.front_door()
    both.arq_worker()
    for door in doors(both, server):
        assert text_of(door.send("hello")) == "HELLO"


def test_in_one_process(both: Stack) -> None:
    server, _ = both.front_door(QUEUE_TYPE="inline")
    for door in doors(both, server):
        assert text_of(door.send("hello")) == "HELLO"


def test_several_processes_on_one_port(both: Stack) -> None:
    server, _ = both.front_door(SERVER__WORKERS="2")
    both.worker()
    for door in doors(both, server):
        assert text_of(door.send("hello")) == "HELLO"


def test_in_memory_by_the_command_line(both: Stack) -> None:
    both.settings = {"LOG__FORMAT": "json"}
    process, first = both.start([PERDURE, "serve", "--port", "0", *BOTH.split(",")], "serving")
    server = both.at(Server(process.popen, first["url"]))
    for door in doors(both, server):
        assert text_of(door.send("hello")) == "HELLO"


@pytest.mark.parametrize(
    ("command", "settings", "what"),
    [
        (["worker", "other"], {"AGENTS": BOTH}, "other is none of AGENTS"),
        (["serve"], {"AGENTS": BOTH, "AGENT": "a.py"}, "AGENT and AGENTS are both set"),
        (["serve", *([str(AGENTS / "talking.py")] * 2)], {}, "are both called"),
    ],
)
def test_mistakes_are_one_line(both: Stack, command: list[str], settings: dict[str, str], what: str) -> None:
    del both.settings["AGENTS"]
    ended = finished([PERDURE, *command], cwd=both.folder, env=surroundings(**{**both.settings, **settings}))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert what in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# ---------------------------------------------------------------------- the official client


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a front door, with a worker of each agent."""
    services: LocalServices
    with local_services(None, fsync=False) as services, ExitStack() as processes:
        stack = several(Stack(tmp_path_factory.mktemp("several"), services, processes))
        server, _ = stack.front_door()
        stack.worker("talking")
        stack.worker("gated")
        yield server.url
    for process in stack.processes:
        print(f"--- {process.popen.args!r} was process {process.popen.pid}", *process.log, sep="\n")


def here(url: str, server: str) -> str:
    """A card has the public address of the server; here it is this one."""
    return server + urlsplit(url).path.rstrip("/")


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
@pytest.mark.parametrize("version", ["1.0", "0.3", "as a tenant"])
async def test_the_official_client_by_the_card_of_an_agent(fleet: str, binding: str, version: str) -> None:
    async with httpx.AsyncClient(timeout=40) as http:
        clients = {}
        for name in ("talking", "gated"):
            card = await A2ACardResolver(http, f"{fleet}/agents/{name}").get_agent_card()
            assert card.name == ("e2e" if name == "gated" else card.name)
            for each in list(card.supported_interfaces):
                as_tenant = "as a tenant" if each.tenant else each.protocol_version
                if (as_tenant, each.protocol_binding) != (version, binding):
                    card.supported_interfaces.remove(each)
                each.url = here(each.url, fleet)
            assert len(card.supported_interfaces) == 1
            config = ClientConfig(streaming=False, httpx_client=http, supported_protocol_bindings=[binding])
            clients[name] = ClientFactory(config).create(card)
        tasks = {name: await sent(client, "hello", context_id="talk") for name, client in clients.items()}
        for name, client in clients.items():
            task = tasks[name]
            assert (task.status.state, text(task)) == (pb.TaskState.TASK_STATE_COMPLETED, "HELLO")
            assert (await client.get_task(pb.GetTaskRequest(id=task.id))).id == task.id
            other = tasks["gated" if name == "talking" else "talking"]
            with pytest.raises(TaskNotFoundError):
                await client.get_task(pb.GetTaskRequest(id=other.id))


async def test_the_official_client_streams(fleet: str) -> None:
    async with httpx.AsyncClient(timeout=40) as http:
        card = await A2ACardResolver(http, f"{fleet}/agents/talking").get_agent_card()
        for each in card.supported_interfaces:
            each.url = here(each.url, fleet)
        client = ClientFactory(ClientConfig(streaming=True, httpx_client=http)).create(card)
        heard = [response async for response in client.send_message(request("one two"))]
    assert heard[-1].status_update.status.state == pb.TaskState.TASK_STATE_COMPLETED


# ---------------------------------------------------------------------- from one agent to several


def named(stack: Stack) -> None:
    """What is started from now on serves the same agent, as one of several."""
    del stack.settings["AGENT"]
    stack.settings["AGENTS"] = f"gated={AGENTS / 'gated.py'}"


def test_an_only_agents_tasks_become_those_of_one_of_several(stack: Stack) -> None:
    def moved(*options: str) -> dict[str, Any]:
        env = surroundings(**stack.settings)
        command = [PERDURE, "tasks", "move", "gated", "--yes", "--json", *options]
        ended = finished(command, cwd=stack.folder, env=env)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    server, _ = stack.front_door()
    stack.worker()
    gate = stack.gate("gate")
    asked = server.send("weather", contextId="talk")
    running = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    assert moved("--dry-run") == {"conversations": 2, "tasks": 2, "dryRun": True}
    assert moved() == {"conversations": 1, "tasks": 1, "busy": 1, "namesakes": 0}
    server.send("weather", contextId="talk")
    gate.open()
    until(lambda: at(server, running, "completed"))
    assert moved() == {"conversations": 1, "tasks": 1, "busy": 0, "namesakes": 1}
    assert server.post("tasks/get", {"id": asked["id"]}).json()["error"]["code"] == -32001

    named(stack)
    front, _ = stack.front_door()
    gated = stack.at_agent(front, "gated")
    stack.worker()
    assert at(gated, running, "completed")
    answered = gated.send("Lisbon", taskId=asked["id"], contextId="talk")
    assert answered["status"]["state"] == "completed"
    assert text_of(answered).endswith(" / Lisbon")


def test_tasks_are_moved_while_they_are_sent_and_run(stack: Stack) -> None:
    server, _ = stack.front_door()
    stack.worker()
    named(stack)
    stack.worker()

    async def move(sent: Future[list[str]]) -> None:
        storage = PostgresStorage(stack.services.database_url, StorageSettings())
        await storage.open()
        try:
            while not sent.done() or (await storage.count_of_only_agent())[0]:
                place: Key | None = FIRST
                while place is not None:
                    place = (await storage.move_to_agent("gated", after=place, limit=3)).last
        finally:
            await storage.close()

    def send() -> list[str]:
        return [server.send(f"number {number}", blocking=False)["id"] for number in range(60)]

    with ThreadPoolExecutor(1) as client:
        sent = client.submit(send)
        asyncio.run(move(sent))
    until(lambda: not stack.rows("SELECT FROM tasks WHERE state <> 'completed'"))
    assert len(stack.rows("SELECT FROM tasks WHERE agent = 'gated'")) == 60
    for task_id in sent.result():
        task = stack.task(task_id)
        assert (task["attempt"], task["crashes"]) == (1, 0)
        stack.log_is_whole(task_id)
