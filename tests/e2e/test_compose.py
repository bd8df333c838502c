"""docker-compose.yml without Docker: each service's command runs as it stands there, on private servers of this machine.

What only means something inside a container is put in local terms: host names, ports, /app and the wheel's `perdure.worker`.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis
import yaml
from tenacity import RetryError, retry, retry_if_result, stop_after_delay, wait_fixed

from perdure.local import LocalServices
from perdure.local.postgres import postgres_programs
from perdure.local.redis import redis_program

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

Service = Mapping[str, Any]


KEY = token_hex(32)
"""The first API key, as the head of docker-compose.yml says to put it into `.env`."""


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Service]:
    """The services, with the variables that have a default replaced by it, as compose does it; the key must be given."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    text = re.sub(r"\$\{AUTH__BOOTSTRAP_KEY:\?[^}]*\}", KEY, text)
    assert "${" not in text, "a variable without a default: `docker compose up` would not work as it is"
    services: Mapping[str, Service] = yaml.safe_load(text)["services"]
    return services


@pytest.fixture
def local(private_services: LocalServices, tmp_path: Path) -> Local:
    return Local(private_services, tmp_path)


class Local:
    """Runs a service's command and health check here."""

    def __init__(self, services: LocalServices, folder: Path) -> None:
        self.services = services
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def line(self, command: list[str]) -> list[str]:
        """A command of the compose file in local terms."""
        program, *arguments = command
        programs = {"python": sys.executable, "perdure": str(BIN / "perdure"), "arq": str(BIN / "arq")}
        return [programs[program], *map(self._here, arguments)]

    def environment(self, service: Service) -> dict[str, str]:
        """The variables of a service, and nothing of this process's that would change the meaning."""
        given = {name: self._here(str(value)) for name, value in service["environment"].items()}
        return {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **given}

    def _here(self, text: str) -> str:
        if re.match(r"postgresql://\w+:\w+@postgres:5432/perdure$", text):
            return self.services.database_url
        if text == "redis://redis:6379/0":
            return self.services.redis_url
        replacements = {
            "/app/agent.py": str(ROOT / "examples" / "echo.py"),
            "perdure.worker.": "worker.",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 -- what is replaced
            "3773": str(self.port),
        }
        for there, here in replacements.items():
            text = text.replace(there, here)
        return text

    @contextmanager
    def running(self, name: str, service: Service) -> Iterator[subprocess.Popen[bytes]]:
        """The service's process, stopped as compose does it; it has to end well."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.line(service["command"]),
                env=self.environment(service),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            code = process.wait(float(service["stop_grace_period"].removesuffix("s")))
            assert code == 0, (code, self.log(name))
        except RetryError:
            pytest.fail(f"not healthy in time, see the logs in {self.folder}; {name}: {self.log(name)}")
        finally:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def is_healthy(self, service: Service) -> bool:
        """What the service's health check says once."""
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        checked = subprocess.run(
            self.line(command),
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            check=False,
            timeout=30,
        )
        return checked.returncode == 0

    @retry(
        retry=retry_if_result(lambda healthy: not healthy), stop=stop_after_delay(40), wait=wait_fixed(0.2)
    )
    def becomes_healthy(self, service: Service, process: subprocess.Popen[bytes]) -> bool:
        """Ask until it is; RetryError when it takes too long, AssertionError when it has ended."""
        assert process.poll() is None, f"{process.args!r} has ended, see its log in {self.folder}"
        return self.is_healthy(service)


def test_everything_waits_for_what_it_needs(compose: Mapping[str, Service]) -> None:
    assert set(compose) == {"postgres", "redis", "migrate", "api", "worker"}
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert compose["migrate"]["depends_on"] == {"postgres": healthy}
    for name in ("api", "worker"):
        assert compose[name]["depends_on"] == {"migrate": done, "postgres": healthy, "redis": healthy}
    for name in ("postgres", "redis", "api", "worker"):
        assert compose[name]["healthcheck"]["test"], name


def test_workers_can_be_scaled(compose: Mapping[str, Service]) -> None:
    assert not {"container_name", "ports", "hostname"} & set(compose["worker"])
    assert not {"container_name", "ports"} & set(compose["postgres"])


def test_a_worker_has_longer_to_stop_than_its_turns(compose: Mapping[str, Service]) -> None:
    from perdure.settings import Settings

    grace = Settings.model_fields["worker"].get_default(call_default_factory=True).grace
    assert float(compose["worker"]["stop_grace_period"].removesuffix("s")) > grace + 5


def test_redis_keeps_what_it_is_told(compose: Mapping[str, Service], tmp_path: Path) -> None:
    program, *arguments = compose["redis"]["command"]
    assert program == "redis-server"
    address = tmp_path / "redis.sock"
    place = ["--port", "0", "--unixsocket", str(address), "--dir", str(tmp_path)]
    with subprocess.Popen([redis_program(), *arguments, *place], stdout=subprocess.DEVNULL) as server:
        try:
            with redis.Redis(unix_socket_path=str(address), decode_responses=True) as client:
                _answers(client)
                kept = client.config_get("maxmemory-policy", "appendonly")
                assert kept == {"maxmemory-policy": "noeviction", "appendonly": "yes"}
        finally:
            server.terminate()
    assert compose["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


@retry(retry=retry_if_result(lambda answered: not answered), stop=stop_after_delay(20), wait=wait_fixed(0.05))
def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_the_database_s_health_is_that_of_its_tcp_port(
    compose: Mapping[str, Service], private_services: LocalServices
) -> None:
    kind, program, *arguments = compose["postgres"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "pg_isready")
    line = [str(postgres_programs() / program), *arguments, "--port", str(private_services.postgres.port)]
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
    private_services.postgres.stop()
    assert subprocess.run(line, capture_output=True, check=False).returncode == 2


@pytest.mark.timeout(180)
def test_the_whole_stack_answers(compose: Mapping[str, Service], local: Local) -> None:
    migrate, api, worker = compose["migrate"], compose["api"], compose["worker"]
    for _ in range(2):  # every `docker compose up` runs it again
        subprocess.run(
            local.line(migrate["command"]), env=local.environment(migrate), cwd=local.folder, check=True
        )
    assert not local.is_healthy(api)
    assert not local.is_healthy(worker)
    with local.running("api", api) as front_door, local.running("worker", worker) as hands:
        assert local.becomes_healthy(api, front_door)
        assert local.becomes_healthy(worker, hands)
        assert _says(local.port, "hello", key=KEY) == ("completed", "hello")
        refused = httpx.post(f"http://127.0.0.1:{local.port}/", json={}, timeout=30)
        assert refused.status_code == 401
        made = subprocess.run(
            local.line(["perdure", "keys", "create", "--owner", "ada"]),
            env=local.environment(api),
            cwd=local.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        assert _says(local.port, "hello", key=made.stdout.strip()) == ("completed", "hello")


def _says(port: int, text: str, *, key: str) -> tuple[str, str]:
    """Send a message and give the task's state and its answer."""
    message = {
        "kind": "message",
        "role": "user",
        "messageId": str(uuid4()),
        "parts": [{"kind": "text", "text": text}],
    }
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "message/send",
        "params": {"message": message, "configuration": {"blocking": True}},
    }
    said = {"X-API-Key": key}
    task = httpx.post(f"http://127.0.0.1:{port}/", json=request, headers=said, timeout=30).json()["result"]
    return task["status"]["state"], task["artifacts"][0]["parts"][0]["text"]
