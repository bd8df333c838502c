"""The client of fasta2a 0.6, which speaks A2A 0.3 over JSON-RPC: all that it can do.

Newer ones: tests/clients/test_fasta2a.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fasta2a.client import A2AClient
from pydantic import ValidationError

from tests.e2e.conftest import AGENTS
from tests.support.processes import PERDURE, serving, surroundings


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[A2AClient]:
    command = [PERDURE, "serve", str(AGENTS / "talking.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        async with httpx.AsyncClient(timeout=40) as http:
            yield A2AClient(server.url, http)


def message(text: str, **members: str) -> Any:
    part = {"kind": "text", "text": text}
    return {"role": "user", "kind": "message", "message_id": str(uuid4()), "parts": [part], **members}


async def test_send_and_get(client: A2AClient) -> None:
    sent: Any = await client.send_message(message("hello"), metadata={"a": 1})
    task = sent["result"]
    assert task["status"]["state"] == "completed"
    assert task["artifacts"][0]["parts"][0]["text"] == "HELLO"
    assert task["metadata"] == {"a": 1}
    found: Any = await client.get_task(task["id"])
    assert found["result"] == task


async def test_a_question_and_its_answer(client: A2AClient) -> None:
    sent: Any = await client.send_message(message("weather"))
    asked = sent["result"]
    assert asked["status"]["state"] == "input-required"
    assert asked["status"]["message"]["parts"][0]["text"] == "Which city?"
    names = {"task_id": asked["id"], "context_id": asked["context_id"]}
    answered: Any = await client.send_message(message("Lisbon", **names))
    assert answered["result"]["id"] == asked["id"]
    assert answered["result"]["artifacts"][0]["parts"][0]["text"] == "LISBON"


async def test_an_error_is_one(client: A2AClient) -> None:
    """The client takes no text of an error but fasta2a's own; it shows the one that came."""
    with pytest.raises(ValidationError, match="there is no task"):
        await client.get_task(str(uuid4()))
