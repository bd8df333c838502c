"""What is old goes from a running fleet, by its workers and by hand, and comes back."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import PERDURE, ROOT, Server, finished, surroundings

from .conftest import Stack, until
from .test_row_security import walled as walled  # noqa: PLC0414 -- a fixture


def perdure(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return finished([PERDURE, *arguments], cwd=stack.folder, env=surroundings(**stack.settings))


def told(stack: Stack, *arguments: str) -> Any:
    result = perdure(stack, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def is_there(server: Server, task_id: str) -> bool:
    return "result" in server.post("tasks/get", {"id": task_id}).json()


def seen(server: Server, task_ids: list[str]) -> list[Any]:
    """All that a client can ask for."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"includeArtifacts": True}}
    listed = server._http.post(server.url, json=asked, headers={"A2A-Version": "1.0"}).json()
    assert len(listed["result"]["tasks"]) == len(task_ids)
    return [
        [server.call("tasks/get", {"id": task_id}) for task_id in task_ids],
        listed,
        streams(server, task_ids),
    ]


def streams(server: Server, task_ids: list[str]) -> list[str]:
    """Their logs, resumed from the first event on."""
    answers = []
    for task_id in task_ids:
        request = {"jsonrpc": "2.0", "id": 1, "method": "tasks/resubscribe", "params": {"id": task_id}}
        answers.append(server._http.post(server.url, json=request, headers={"Last-Event-ID": "1"}).text)
    return answers


def test_a_workers_sweep_archives_and_deletes(stack: Stack) -> None:
    archive = stack.folder / "archive"
    archive.mkdir()
    stack.settings |= {
        "AGENT": str(ROOT / "examples" / "echo.py"),
        "RETENTION__COMPLETED": "0.5",
        "RETENTION__INTERVAL": "0.3",
        "RETENTION__ARCHIVE": str(archive),
    }
    server, _ = stack.front_door()
    workers = [stack.worker(), stack.worker()]
    sent = [server.send(f"hello {number}")["id"] for number in range(20)]
    until(lambda: not any(is_there(server, task_id) for task_id in sent))
    until(lambda: not stack.rows("SELECT FROM contexts"))
    assert not stack.rows("SELECT FROM task_events")
    lines = [line for path in archive.iterdir() for line in gzip.decompress(path.read_bytes()).splitlines()]
    found = [json.loads(line)["id"] for line in lines]
    assert sorted(set(found)) == sorted(sent)
    assert len(found) == len(sent)
    assert sum(worker.said("retention.done") for worker in workers) > 0
    scraped = server._http.get(f"{server.url}/metrics").text
    assert "perdure_retention_last_run_seconds" in scraped
    assert "deleted as old" in server._http.get(f"{server.url}/ops").text


def test_nothing_is_deleted_by_looking_or_without_an_answer(stack: Stack) -> None:
    stack.settings["AGENT"] = str(ROOT / "examples" / "echo.py")
    server, _ = stack.front_door()
    stack.worker()
    sent = [server.send(f"hello {number}")["id"] for number in range(3)]
    dry = told(stack, "prune", "--older-than", "0", "--dry-run")
    assert (dry["tasks"], dry["kept"]) == (3, 0)
    [group] = dry["groups"]
    assert (group["state"], group["age"], group["tasks"]) == ("completed", "less than a day", 3)
    assert group["bytes"] > 1000
    assert told(stack, "prune", "--older-than", "1d", "--dry-run")["tasks"] == 0
    unanswered = perdure(stack, "prune", "--older-than", "0")
    assert unanswered.returncode == 1
    assert "delete 3 tasks, for good" in unanswered.stderr
    assert [is_there(server, task_id) for task_id in sent] == [True] * 3


def test_what_was_pruned_by_hand_comes_back(stack: Stack) -> None:
    archive = stack.folder / "archive"
    archive.mkdir()
    stack.settings["AGENT"] = str(ROOT / "examples" / "streaming.py")
    server, _ = stack.front_door()
    stack.worker()
    context = "a conversation"
    sent = [server.send(f"hello {number}", contextId=context)["id"] for number in range(3)]
    before = seen(server, sent)

    done = told(stack, "prune", "--older-than", "0", "--archive", str(archive), "--yes")
    assert done == {"deleted": {"completed": 3}, "contexts": 1, "trimmed": 0, "actions": 0, "kept": 0}
    assert [is_there(server, task_id) for task_id in sent] == [False] * 3
    [audited] = stack.rows("SELECT action, result FROM operator_actions WHERE action = 'prune'")
    assert audited["result"] == "3 tasks deleted, 1 conversations with them"

    [file] = [str(path) for path in archive.iterdir()]
    assert told(stack, "import", file, "--dry-run")["restored"] == 3
    assert [is_there(server, task_id) for task_id in sent] == [False] * 3
    assert told(stack, "import", file) == {"restored": 3, "skipped": 0, "refused": [], "dryRun": False}
    assert seen(server, sent) == before
    assert server.send("and now", contextId=context)["status"]["state"] == "completed"


def test_what_was_exported_is_imported_and_wrong_lines_are_named(stack: Stack) -> None:
    stack.settings["AGENT"] = str(ROOT / "examples" / "echo.py")
    server, _ = stack.front_door()
    stack.worker()
    sent = [server.send(f"hello {number}")["id"] for number in range(2)]
    before = seen(server, sent)
    lines = perdure(stack, "tasks", "export").stdout.splitlines()
    assert perdure(stack, "prune", "--older-than", "0", "--yes").returncode == 0

    file = stack.folder / "tasks.jsonl"
    file.write_text("\n".join([lines[0], "{", "", '{"id": "x"}', *lines, lines[0][:500]]))
    result = perdure(stack, "import", str(file))
    assert result.returncode == 1
    assert result.stdout == "2 put back, 1 were there already, 3 refused\n"
    said = result.stderr.splitlines()
    assert [line.split(":")[1] for line in said] == ["2", "4", "7"]
    assert "is no JSON" in said[0]
    assert "only what this version exports or archives" in said[1]
    assert "ends in the middle" in said[2]
    assert seen(server, sent) == before


def test_behind_the_wall_it_is_the_workers_role_that_deletes(walled: Stack, tmp_path: Path) -> None:
    walled.settings |= {"RETENTION__COMPLETED": "0", "RETENTION__INTERVAL": "0.3"}
    walled.settings["AGENT"] = str(ROOT / "examples" / "echo.py")
    server, _ = walled.front_door(RETENTION__COMPLETED="")
    sent = [server.send(f"hello {number}", blocking=False)["id"] for number in range(3)]
    walled.worker()
    until(lambda: not any(is_there(server, task_id) for task_id in sent))
    kept = perdure(walled, "prune", "--older-than", "0", "--yes", "--json")
    assert json.loads(kept.stdout)["deleted"] == {}
