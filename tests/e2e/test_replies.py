"""A chat that never shows a task."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.processes import PERDURE, sending, serving, surroundings
from tests.support.streams import Listener

from .conftest import AGENTS


def test_a_conversation_of_messages(tmp_path: Path) -> None:
    """The reply names its conversation and no task, so that a client's next message begins a new one."""
    command = [PERDURE, "serve", str(AGENTS / "chatting.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        first = server.send("hello")
        assert first["kind"] == "message"
        assert "taskId" not in first
        assert first["parts"] == [{"kind": "text", "text": "1"}]
        again = server.send("and again", contextId=first["contextId"])
        assert again["parts"] == [{"kind": "text", "text": "3"}]
        body = {"jsonrpc": "2.0", "id": 1, "method": "message/stream"}
        params = sending("streamed", contextId=first["contextId"])
        with httpx.stream("POST", server.url, json=body | {"params": params}, timeout=30) as response:
            listener = Listener()
            list(listener.hears(response.iter_lines()))
        [(_, streamed)] = listener.frames
        assert (streamed["kind"], streamed["parts"][0]["text"]) == ("message", "5")
        assert server.call("tasks/list", {})["totalSize"] == 3
