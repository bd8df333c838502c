"""`python my_agent.py`, `perdure serve` and where their parts come from."""

from __future__ import annotations

import http.client
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import SendMessageRequest
from pydantic import SecretStr

from perdure import Agent
from perdure.agent.loader import load_agent
from perdure.errors import ConfigError
from perdure.launch import asgi, is_loopback, port_of
from perdure.settings import AuthSettings, Settings
from tests.support.processes import (
    PERDURE,
    ROOT,
    finished,
    heard,
    serving,
    started,
    surroundings,
    text_of,
)

ECHO = """
from perdure import bindufy
config = {"name": "echo", "deployment": {"url": "http://localhost:%d"}}
bindufy(config, lambda messages: messages[-1]["content"])
print("after")
"""
HOSTILE = "raise SystemExit('this is not the module that was meant')"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with an author's own packages, called as ours and as a library of ours."""
    for name in ("api", "worker", "alembic", "perdure"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HOSTILE)
    return tmp_path


@pytest.mark.parametrize("chunked", [False, True], ids=["said", "chunked"])
def test_who_sends_too_much_gets_an_answer(tmp_path: Path, chunked: bool) -> None:
    """http.client looks for the answer when it has sent everything, as most clients do."""
    (tmp_path / "my_agent.py").write_text(ECHO % 0)
    env = surroundings(SERVER__MAX_BODY_BYTES="1024", PORT="0", LOG__FORMAT="json")
    with serving([sys.executable, "my_agent.py"], cwd=tmp_path, env=env) as server:
        body = [b" " * 65_536] * 200
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        connection.request(
            "POST",
            "/",
            body=iter(body) if chunked else b"".join(body),
            headers={"Content-Type": "application/json", "Connection": "close"},
            encode_chunked=chunked,
        )
        answer = connection.getresponse()
        assert answer.status == 413
        assert b"larger than 1024 bytes" in answer.read()
        connection.close()


def test_a_script_serves_its_agent(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "my_agent.py").write_text(ECHO % free_port)
    with serving([sys.executable, "my_agent.py"], cwd=tmp_path) as server:
        assert server.url == f"http://127.0.0.1:{free_port}"
        assert text_of(server.send("hello")) == "hello"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.stop(signal.SIGTERM) == 0


def test_a_script_goes_on_when_the_server_has_ended(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(ECHO % 1)
    with serving([sys.executable, "my_agent.py"], cwd=tmp_path, env=surroundings(PORT="0")) as server:
        server.process.send_signal(signal.SIGTERM)
        out, _ = server.process.communicate(timeout=40)
    assert out.splitlines()[-1] == "after"


def test_interrupted_is_130(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(ECHO % 1)
    with serving([sys.executable, "my_agent.py"], cwd=tmp_path, env=surroundings(PORT="0")) as server:
        server.process.send_signal(signal.SIGINT)
        out, _ = server.process.communicate(timeout=40)
    assert server.process.returncode == 130
    assert "after" not in out
    assert "Traceback" not in out


def test_loading_it_does_not_serve(tmp_path: Path, taken_port: int) -> None:
    (tmp_path / "my_agent.py").write_text(ECHO % taken_port)
    assert load_agent(str(tmp_path / "my_agent.py")).config.name == "echo"
    imported = finished([sys.executable, "-c", "import my_agent"], cwd=tmp_path)
    assert (imported.returncode, imported.stdout) == (0, "after\n")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("bindufy({'name': 5}, print)", "perdure: the agent's config is wrong: name: "),
        ("bindufy({'name': 'a', 'colour': 'b'}, print)", "perdure: the agent's config is wrong: colour: "),
        (
            "bindufy({'name': 'a'}, lambda: 1)",
            "perdure: the handler must take (messages) or (messages, turn)",
        ),
        ("bindufy({'name': 'a'}, 'print')", "perdure: the handler must be a function, not str"),
    ],
)
def test_a_wrong_agent_is_one_line_and_2(tmp_path: Path, source: str, line: str) -> None:
    (tmp_path / "my_agent.py").write_text(f"from perdure import bindufy\n{source}\n")
    for command in ([sys.executable, "my_agent.py"], [PERDURE, "serve", "my_agent.py"]):
        ran = finished(command, cwd=tmp_path)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(line)
        assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("by_script", [True, False])
def test_a_port_in_use_is_one_line_and_2(tmp_path: Path, taken_port: int, by_script: bool) -> None:
    (tmp_path / "my_agent.py").write_text(ECHO % taken_port)
    command = [sys.executable, "my_agent.py"] if by_script else [PERDURE, "serve", "my_agent.py"]
    ran = finished(command, cwd=tmp_path)
    assert ran.returncode == 2
    assert (
        ran.stderr
        == f"perdure: port {taken_port} is in use: stop what uses it, or choose another with --port or PORT\n"
    )


def test_a_host_that_is_not_ours_is_one_line_and_2() -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        ran = finished([PERDURE, "serve", "examples/echo.py", "--host", host, "--port", "0"], cwd=ROOT)
        assert (ran.returncode, ran.stderr) == (2, f"perdure: HOST: '{host}' is no address of this machine\n")


def test_an_author_may_have_folders_called_like_ours(hostile: Path) -> None:
    (hostile / "my_agent.py").write_text(ECHO % 1)
    command = [PERDURE, "serve", "my_agent.py", "--port", "0"]
    with serving(command, cwd=hostile) as server:
        assert text_of(server.send("hello")) == "hello"
        assert server.stop() == 0


def test_with_postgres_too(hostile: Path, empty_database_url: str) -> None:
    (hostile / "my_agent.py").write_text(ECHO % 1)
    env = surroundings(STORAGE_TYPE="postgres", DATABASE_URL=empty_database_url, HOST="::1", PORT="0")
    with serving([PERDURE, "serve", "my_agent.py"], cwd=hostile, env=env) as server:
        assert server.url.startswith("http://[::1]:")
        assert text_of(server.send("hello")) == "hello"
        assert server.stop() == 0


def test_an_author_may_import_modules_called_like_ours(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("GREETING = 'mine'\n")
    (tmp_path / "my_agent.py").write_text(
        "from perdure import bindufy\nimport api\nagent = bindufy({'name': 'a'}, lambda messages: api.GREETING)\n"
    )
    with serving([PERDURE, "serve", "my_agent.py", "--port", "0"], cwd=tmp_path) as server:
        assert text_of(server.send("hello")) == "mine"


def test_stopping_lets_a_turn_finish(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(
        "import os, signal, time\n"
        "from perdure import bindufy\n"
        "def handler(messages):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "    return 'done'\n"
        "bindufy({'name': 'a'}, handler)\n"
    )
    with serving([PERDURE, "serve", "my_agent.py", "--port", "0"], cwd=tmp_path) as server:
        assert text_of(server.send("hello")) == "done"
        server.process.communicate(timeout=40)
        assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("url", "setting", "port"),
    [
        ("http://localhost:4000", None, 4000),
        ("http://127.0.0.1:4000/path", None, 4000),
        ("http://[::1]:4000", None, 4000),
        ("http://localhost:4000", 5000, 5000),
        ("http://localhost:4000", 0, 0),
        ("http://localhost", None, 80),
        ("https://agents.example.com", None, 3773),
        ("http://agents.example.com:4000", None, 3773),
        ("https://localhost:4000", None, 3773),
    ],
)
def test_the_port_is_the_setting_or_that_of_a_local_address(url: str, setting: int | None, port: int) -> None:
    agent = Agent.of({"name": "a", "deployment": {"url": url}}, lambda messages: None)
    assert port_of(agent, Settings(port=setting)) == port


@pytest.mark.parametrize(
    ("host", "deployment", "card"),
    [
        ("127.0.0.1", {}, "http://127.0.0.1:4000/"),
        ("::1", {}, "http://[::1]:4000/"),
        ("fe80::1%eth0", {}, "http://[fe80::1]:4000/"),
        ("agents.test", {}, "http://agents.test:4000/"),
        ("", {}, "http://localhost:4000/"),
        ("0.0.0.0", {}, "http://localhost:4000/"),  # noqa: S104 - in memory
        ("::", {"expose": True}, "http://localhost:4000/"),
        ("0.0.0.0", {"url": "https://agents.example.com"}, "https://agents.example.com/"),  # noqa: S104
        ("127.0.0.1", {"url": "http://localhost:3773"}, "http://localhost:3773/"),
    ],
)
async def test_the_card_has_the_address_that_is_served_unless_the_config_says_one(
    host: str, deployment: dict[str, Any], card: str
) -> None:
    app = asgi(Agent.of({"name": "a", "deployment": deployment}, str), Settings(host=host, port=4000))
    assert await addresses_in(app) == {card}


async def test_an_unknown_port_is_the_usual_one_in_the_card() -> None:
    assert await addresses_in(asgi(Agent.of({"name": "a"}, str), Settings())) == {"http://localhost:3773/"}


def test_a_host_that_is_no_address_is_told() -> None:
    with pytest.raises(ConfigError, match=r"set deployment\.url"):
        asgi(Agent.of({"name": "a"}, str), Settings(host="a b", port=4000))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_official_client_finds_its_way_to_whatever_port(
    tmp_path: Path, workers: str, empty_database_url: str
) -> None:
    (tmp_path / "agent.py").write_text(
        "from perdure import bindufy\nbindufy({'name': 'a'}, lambda messages: messages[-1]['content'])\n"
    )
    env = surroundings(
        STORAGE_TYPE="postgres", DATABASE_URL=empty_database_url, SERVER__WORKERS=workers, LOG__FORMAT="json"
    )
    request = SendMessageRequest(
        message={"message_id": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    )
    with serving([PERDURE, "serve", "agent.py", "--port", "0"], cwd=tmp_path, env=env) as server:
        async with httpx.AsyncClient(timeout=30) as http:
            card = await A2ACardResolver(http, server.url).get_agent_card()
            assert {each.url for each in card.supported_interfaces} == {f"{server.url}/"}
            client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)
            [answer] = [each async for each in client.send_message(request)]
        assert answer.task.artifacts[0].parts[0].text == "hello"


async def addresses_in(app: Any) -> set[str]:
    """Of the card's interfaces."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://a") as client,
    ):
        card = (await client.get("/.well-known/agent-card.json")).json()
    return {card["url"], *(each["url"] for each in card["supportedInterfaces"])}


async def test_as_an_asgi_application() -> None:
    app = asgi(Agent.of({"name": "a"}, lambda messages: "hi"), Settings())
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://a") as client,
    ):
        answer = await client.get("/.well-known/agent-card.json")
    assert answer.json()["name"] == "a"


# ---------------------------------------------------------------------- who may come in

DURABLE = {"STORAGE_TYPE": "postgres", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
IN_MEMORY = Settings()
SECURE = AuthSettings(api_keys=True)
INSECURE = AuthSettings(insecure=True)


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_durable_server_is_not_opened_to_other_machines_by_mistake(tmp_path: Path, command: str) -> None:
    agent = str(ROOT / "examples" / "echo.py")
    refused = finished(
        [PERDURE, command, agent],
        cwd=tmp_path,
        env=surroundings(**DURABLE, HOST="0.0.0.0"),  # noqa: S104
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line.startswith("perdure: HOST is 0.0.0.0: other machines could come in")
    assert "--insecure" in line
    assert not (tmp_path / ".perdure").exists()


def test_insecure_is_said_on_the_command_line_or_by_a_setting(tmp_path: Path) -> None:
    agent = str(ROOT / "examples" / "echo.py")
    open_door = {**DURABLE, "HOST": "0.0.0.0", "STORAGE__STARTUP_TIMEOUT": "0", "STORAGE__RETRY_TIMEOUT": "0"}  # noqa: S104
    for arguments, settings in ((["--insecure"], {}), ([], {"AUTH__INSECURE": "true"})):
        ran = finished(
            [PERDURE, "serve", agent, "--port", "0", *arguments],
            cwd=tmp_path,
            env=surroundings(**open_door, **settings),
        )
        assert ran.returncode == 1, "it was let in, and found no database"


def test_an_open_door_without_authentication_is_told_in_the_log(tmp_path: Path) -> None:
    agent = str(ROOT / "examples" / "echo.py")
    command = [PERDURE, "serve", agent, "--port", "0", "--host", "0.0.0.0"]  # noqa: S104
    with started(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as process:
        assert heard(process, "auth.off")["level"] == "warning"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.1", "localhost.example", "example", "::ffff:8.8.8.8"],  # noqa: S104
)
def test_everything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("auth", "opens"), [(AuthSettings(), False), (SECURE, True), (INSECURE, True)])
def test_under_another_asgi_server_the_setting_is_believed(auth: AuthSettings, opens: bool) -> None:
    agent = load_agent(str(ROOT / "examples" / "echo.py"))
    url = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    settings = Settings(storage_type="postgres", database_url=url, host="10.0.0.1", auth=auth)
    if opens:
        asgi(agent, settings)
    else:
        with pytest.raises(ConfigError, match="other machines could come in"):
            asgi(agent, settings)
    asgi(agent, settings.model_copy(update={"host": "127.0.0.1"}))
    asgi(agent, IN_MEMORY.model_copy(update={"host": "10.0.0.1"}))
