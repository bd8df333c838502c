"""Ports of their own: for operators on the front door, for probes and Prometheus on a worker."""

from __future__ import annotations

import signal
import socket

import httpx

from tests.e2e.conftest import Stack, until


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_operators_and_probes_have_ports_of_their_own(stack: Stack) -> None:
    ops, health = _free_port(), _free_port()
    door, _ = stack.front_door(OPS__PORT=str(ops))
    worker = stack.worker(WORKER__HEALTH_PORT=str(health))
    theirs, probe = f"http://127.0.0.1:{ops}", f"http://127.0.0.1:{health}"
    assert httpx.get(f"{theirs}/ops").status_code == 200
    assert httpx.get(f"{door.url}/ops").status_code == 404
    assert httpx.get(f"{door.url}/metrics").status_code == 404
    assert httpx.get(f"{theirs}/.well-known/agent-card.json").status_code == 404
    until(lambda: httpx.get(f"{probe}/readyz").json() == {"status": "ready", "reasons": []})
    gate = stack.gate("gate")
    task = door.send(str(gate.path), blocking=False)
    gate.begun()
    assert "perdure_slots_used 1.0" in httpx.get(f"{probe}/metrics").text
    assert 'perdure_tasks{agent="",state="working"} 1.0' in httpx.get(f"{theirs}/metrics").text
    assert task["id"] in httpx.get(f"{theirs}/ops/tasks").text
    stack.services.redis.kill()
    until(lambda: httpx.get(f"{probe}/readyz").json()["status"] == "degraded")
    gate.open()
    until(
        lambda: (
            'perdure_attempts_total{agent="",outcome="completed"} 1.0' in httpx.get(f"{probe}/metrics").text
        )
    )
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
