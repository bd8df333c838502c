"""Archived tasks: lines that say everything, files that are whole whatever happens, and words for what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import ArchiveFailed
from perdure.retention.archive import CutShort, FileArchive, line_of, opened, record_of
from perdure.storage.retention import TaskRecord
from tests.contract.test_retention import rich
from tests.support.storages import opened_memory
from tests.support.stories import submit


@pytest.fixture
async def record() -> TaskRecord:
    async with opened_memory() as opened_one:
        return await opened_one.storage.task_record(await rich(opened_one.storage))


def changed(record: TaskRecord, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Its line, with a change."""
    json_of = json.loads(line_of(record))
    change(json_of)
    return json.dumps(json_of).encode() + b"\n"


def the_file(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def size_of(path: Path) -> int:
    return path.stat().st_size


def lines(path: Path) -> list[bytes]:
    with opened(path) as (found, _):
        return list(found)


# ---------------------------------------------------------------------- lines


async def test_a_line_says_everything(record: TaskRecord) -> None:
    line = line_of(record)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert record_of(line) == replace(record, deliveries=())


async def test_a_line_is_an_a2a_task(record: TaskRecord) -> None:
    task = json.loads(line_of(record))
    assert set(task) == {"id", "contextId", "status", "history", "artifacts", "metadata", "perdure"}
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["status"]["message"]["parts"] == [{"text": "done"}]
    assert [message["parts"][0]["text"] for message in task["history"]] == ["hello", "which?", "that"]
    assert [artifact["parts"][0]["text"] for artifact in task["artifacts"]] == ["one two three", "b"]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "of another version": (lambda task: task["perdure"].update(format=7), "upgrade"),
    "a task alone": (lambda task: task.pop("perdure"), "member perdure"),
    "without an owner": (lambda task: task["perdure"].pop("owner"), "'owner' is missing"),
    "an empty owner": (lambda task: task["perdure"].update(owner=""), "not empty"),
    "no events": (lambda task: task["perdure"].update(events=[]), "no status"),
    "a gap": (lambda task: task["perdure"]["events"].pop(2), "no event with the number 3"),
    "no time": (lambda task: task["perdure"].update(createdAt="yesterday"), "damaged"),
    "a time of nowhere": (lambda task: task["perdure"].update(createdAt="2026-01-01T00:00:00"), "time zone"),
    "a kind of its own": (lambda task: task["perdure"]["events"][0].update(kind="x"), "kind of event"),
    "a wrong rating": (lambda task: task["perdure"]["feedback"][0].update(rating=9), "rating"),
    "a wrong id": (lambda task: task.update(id="x"), "damaged"),
    "a wrong status": (lambda task: task["perdure"].update(statusSeq=1), "no status with the number 1"),
    "metadata as a list": (lambda task: task.update(metadata=[]), "metadata is no object"),
    "a number as text": (lambda task: task["perdure"].update(attempt="many"), "damaged"),
    "a message without parts": (lambda task: task["perdure"]["events"][0]["payload"].pop("parts"), "parts"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_with_a_line_is_said(record: TaskRecord, wrong: str) -> None:
    change, why = WRONG[wrong]
    with pytest.raises(ValueError, match=why):
        record_of(changed(record, change))


@pytest.mark.parametrize(("line", "why"), [(b"{", "no JSON"), (b"[1]", "no task"), (b'{"id": 1}', "no task")])
def test_what_is_no_task_is_said(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        record_of(line)


async def test_a_task_that_goes_on_is_not_put_back() -> None:
    async with opened_memory() as opened_one:
        accepted = await submit(opened_one.storage)
        waiting = await opened_one.storage.task_record(accepted.task.task_id)
    with pytest.raises(ValueError, match="no status"):
        record_of(line_of(waiting))


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("compress", [False, True])
async def test_batches_go_into_one_file_a_day(tmp_path: Path, record: TaskRecord, compress: bool) -> None:
    archive = FileArchive(tmp_path, name="w1", compress=compress)
    for _ in range(2):
        await archive.add(record)
        await archive.add(record)
        await archive.sync()
    archive.close()
    again = FileArchive(tmp_path, name="w1", compress=compress)
    await again.add(record)
    await again.sync()
    again.close()
    path = the_file(tmp_path)
    assert path.name.endswith("-w1.jsonl.gz" if compress else "-w1.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600
    assert lines(path) == [line_of(record)] * 5


@pytest.mark.parametrize("compress", [False, True])
async def test_what_was_not_synced_is_cut_off(tmp_path: Path, record: TaskRecord, compress: bool) -> None:
    archive = FileArchive(tmp_path, name="w1", compress=compress)
    await archive.add(record)
    await archive.sync()
    await archive.add(record)
    archive.close()
    path = the_file(tmp_path)
    assert lines(path) == [line_of(record)]


@pytest.mark.parametrize("compress", [False, True])
async def test_a_full_disk_leaves_whole_lines(tmp_path: Path, record: TaskRecord, compress: bool) -> None:
    """The limit on a file's size stands for the disk: a write is cut short in the middle, then fails."""
    archive = FileArchive(tmp_path, name="w1", compress=compress)
    await archive.add(record)
    await archive.sync()
    path = the_file(tmp_path)
    noise = replace(record, task=replace(record.task, metadata={"x": os.urandom(100_000).hex()}))
    with largest_file(size_of(path) + 100), pytest.raises(ArchiveFailed, match="nothing is deleted"):
        await archive.add(noise)
    assert lines(path) == [line_of(record)]
    await archive.add(record)
    await archive.sync()
    archive.close()
    assert lines(path) == [line_of(record)] * 2


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path, record: TaskRecord) -> None:
    archive = FileArchive(tmp_path / "away", name="w1", compress=False)
    with pytest.raises(ArchiveFailed, match="away"):
        await archive.add(record)
    archive.close()


async def test_a_compressed_file_that_ends_in_the_middle(tmp_path: Path, record: TaskRecord) -> None:
    path = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress(line_of(record))
    path.write_bytes(whole + whole[: len(whole) // 2])
    with opened(path) as (found, _):
        assert next(found) == line_of(record)
        with pytest.raises(CutShort):
            list(found)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
