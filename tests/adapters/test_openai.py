"""A chat model behind an OpenAI-style address: a server of this test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

from perdure.adapters import openai
from perdure.testing import run


class Model(BaseHTTPRequestHandler):
    """Streams what it was told last, word by word; answers 429 to `busy`."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **request})
        said = request["messages"][-1]["content"]
        if said == "busy":
            self.send_response(429)
            self.send_header("Retry-After", "7")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in said.split():
            self._say({"choices": [{"delta": {"content": f"{word} "}}]})
        self._say({"choices": [], "usage": {"total_tokens": 3}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


async def test_it_streams_the_models_answer() -> None:
    Model.asked.clear()
    with served() as url:
        handler = openai.handler(url, "tiny", key="k", system="Be brief.", temperature=0)
        result = await run(handler, ["hello", {"role": "assistant", "content": "hi"}, "one two"])
    assert (result.state, result.text, result.chunks) == ("completed", "one two ", ("one ", "two "))
    assert result.metadata == {"usage": {"total_tokens": 3}}
    [asked] = Model.asked
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer k")
    assert (asked["model"], asked["temperature"], asked["stream"]) == ("tiny", 0, True)
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]


async def test_a_busy_model_is_asked_again_later() -> None:
    with served() as url:
        result = await run(openai.handler(url, "tiny"), "busy")
    assert result.retry is not None
    assert result.retry.at_least == 7


async def test_a_model_that_is_away_is_asked_again_later(unused_tcp_port: int) -> None:
    result = await run(openai.handler(f"http://127.0.0.1:{unused_tcp_port}", "tiny"), "hello")
    assert result.retry is not None
