"""The benchmark's own arithmetic, and the client that all servers are measured with."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from bench.dialects import V03, V1, task_of
from bench.followers import Followed, Follower
from bench.http import connected, hung_up
from bench.report import save, table
from bench.results import Figure, Results, percentile


def results() -> Results:
    found = Results()
    found.add("flood", "Perdure", "/s", [90, 100, 130])
    found.add("flood", "peer", "/s", [10], "not durable")
    found.at_least("flood against peer", 20, ("flood", "Perdure"), ("flood", "peer"))
    found.at_most("flood at most", 100, ("flood", "Perdure"), "/s")
    found.at_most("never measured", 1, ("nothing", "Perdure"), "ms")
    return found


def test_figures_and_targets() -> None:
    found = results()
    assert [(check.target, check.met) for check in found.checks] == [
        ("flood against peer", False),
        ("flood at most", True),
    ]
    assert (found.figures[0].median, found.figures[0].spread) == (100, 20)
    assert "| flood against peer | >= 20x | 10.00x (100 against 10) | **not met** |" in table(found)
    assert Figure("idle", "nobody", "%", (0, 0)).spread == 0


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 51), (0.99, 100), (1, 100)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_a_second_run_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    save(results(), path)
    more = Results()
    more.add("flood", "peer", "/s", [11])
    save(more, path)
    figures = json.loads(path.read_text())["figures"]
    assert [(each["subject"], each["median"]) for each in figures] == [("Perdure", 100), ("peer", 11)]


@pytest.mark.parametrize(
    ("answer", "task"),
    [
        (
            {"result": {"task": {"id": "a", "status": {"state": "TASK_STATE_INPUT_REQUIRED"}}}},
            ("a", "input-required"),
        ),
        ({"result": {"id": "a", "status": {"state": "completed"}}}, ("a", "completed")),
    ],
)
def test_a_task_in_either_version(answer: dict[str, object], task: tuple[str, str]) -> None:
    assert task_of(answer) == task
    with pytest.raises(RuntimeError, match="busy"):
        task_of({"error": "busy"})


def test_not_waiting_is_asked_for_in_either_version() -> None:
    assert V1.sending("x", wait=False)["params"]["configuration"] == {"returnImmediately": True}
    assert V03.sending("x", wait=False)["params"]["configuration"]["blocking"] is False


async def test_the_client_keeps_its_connection_and_notices_when_it_ends() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
            await writer.drain()
            writer.write(body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        clients = await connected(f"http://127.0.0.1:{port}/", {"x-more": "1"}, 1)
        assert [await clients[0].call({"n": n}) for n in range(2)] == [{"n": 0}, {"n": 1}]
        with pytest.raises(ConnectionError):
            await clients[0].call({})
        await hung_up(clients)


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_a_follower_counts_whatever_comes_in_however_many_pieces(cut: int) -> None:
    frames = [b'id: %d\ndata: {"text":"<%d> <%d> "}\n\n' % (number, number, number) for number in range(1, 4)]
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in frames)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found, follower = Followed(), Follower(ours)
        for place in range(0, len(answer), cut):
            theirs.sendall(answer[place : place + cut])
            assert follower.read(found)
        theirs.sendall(b"0\r\n")
        assert follower.read(found)
        theirs.sendall(b"\r\n")
        assert not follower.read(found)
        assert (found.events, found.tokens, len(found.milliseconds)) == (3, 6, 6)
        theirs.close()
        with pytest.raises(SystemExit):
            follower.read(found)
