"""`perdure doctor` beside real services, well and unwell."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from tests.support.processes import PERDURE, ROOT, finished, serving, surroundings
from tests.support.traces import Collector

from .conftest import Stack


def findings(stack: Stack, *arguments: str, **settings: str) -> tuple[int, dict[str, tuple[str, str]]]:
    env = surroundings(**{**stack.settings, "AGENT": str(ROOT / "examples" / "echo.py"), **settings})
    result = finished([PERDURE, "doctor", "--json", *arguments], cwd=stack.folder, env=env)
    told = [json.loads(line) for line in result.stdout.splitlines()]
    return result.returncode, {each["check"]: (each["grade"], each["text"]) for each in told}


def test_all_is_well(stack: Stack) -> None:
    server, _ = stack.front_door()
    code, found = findings(stack, "--url", server.url, AUTH__API_KEYS="true")
    assert code == 0
    assert {check: grade for check, (grade, _) in found.items()} == {
        "agent": "ok",
        "callers": "ok",
        "database": "ok",
        "clock": "ok",
        "redis": "ok",
        "card": "ok",
    }


def test_a_card_that_sends_callers_elsewhere_is_warned_of(stack: Stack) -> None:
    server, _ = stack.front_door(AGENT=str(ROOT / "examples" / "echo.py"))  # its config says port 3773
    code, found = findings(stack, "--url", server.url)
    assert (code, found["card"][0]) == (0, "warning")
    assert f"http://localhost:3773/, which is not {server.url}" in found["card"][1]


def test_the_card_is_looked_at_in_memory_too(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("from perdure import bindufy\nbindufy({'name': 'a'}, str)\n")
    with serving([PERDURE, "serve", "agent.py", "--port", "0"], cwd=tmp_path) as server:
        url = server.url.replace("127.0.0.1", "localhost")  # another name of the same place
        result = finished([PERDURE, "doctor", "--json", "--url", url], cwd=tmp_path)
    card = json.loads(result.stdout.splitlines()[-1])
    assert (card["check"], card["grade"]) == ("card", "ok")
    wrong = finished([PERDURE, "doctor", "--json", "--url", "no where"], cwd=tmp_path)
    assert (wrong.returncode, json.loads(wrong.stdout.splitlines()[-1])["grade"]) == (1, "failed")


def test_what_is_wrong_is_named(stack: Stack) -> None:
    code, found = findings(stack, AGENT="nowhere.py")
    assert code == 1
    assert found["agent"][0] == "failed"
    assert found["database"] == ("failed", found["database"][1])  # nobody has made a schema yet
    assert "perdure migrate upgrade" in found["database"][1]
    assert found["callers"][0] == "warning"


def test_a_redis_that_throws_keys_away_is_warned_of(stack: Stack) -> None:
    stack.front_door()
    with redis.Redis.from_url(stack.services.redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    code, found = findings(stack)
    assert (code, found["redis"][0]) == (0, "warning")
    assert "allkeys-lru" in found["redis"][1]


def test_services_that_are_away(stack: Stack) -> None:
    stack.front_door()
    stack.services.redis.kill()
    assert findings(stack)[1]["redis"][0] == "warning"
    stack.services.postgres.kill()
    code, found = findings(stack)
    assert (code, found["database"][0]) == (1, "failed")
    assert "clock" not in found


def test_the_collector_of_traces_is_tried_out(stack: Stack) -> None:
    stack.front_door()
    collector = Collector()
    assert findings(stack, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)[1]["traces"] == (
        *("ok", f"{collector.url} takes them"),
    )
    collector.close()
    code, found = findings(stack, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert (code, found["traces"][0]) == (0, "warning")
    assert "Connection refused" in found["traces"][1]
    _, found = findings(stack, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is grpc" in found["traces"][1]


def test_in_memory_there_is_little_to_look_at(tmp_path: Path) -> None:
    result = finished([PERDURE, "doctor"], cwd=tmp_path, env=surroundings())
    assert result.returncode == 0
    assert "tasks are kept in memory and end with the process" in result.stdout
