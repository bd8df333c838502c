"""What is said of things in Redis that are none of ours: seldom, and with little of what is in them."""

from __future__ import annotations

import orjson
import pytest

from perdure.ids import new_task_id
from perdure.queue.notices import Strange, spoken, understood
from perdure.tasks import Notice, TaskState

NESTED = orjson.loads(b"[" * 1000 + b"]" * 1000)


@pytest.mark.parametrize("thing", [b"s" * 5000, "s" * 5000, ["s" * 5000], NESTED, b"\n\x1b[31m" * 5000])
def test_a_line_shows_the_beginning_only(thing: object, capsys: pytest.CaptureFixture[str]) -> None:
    Strange("strange").skipped([thing])
    said = capsys.readouterr().out
    assert "strange" in said
    assert "s" * 61 not in said
    assert (len(said) < 500, said.count("\n")) == (True, 1)


def test_who_goes_on_gets_one_line_in_a_while_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    strange = Strange("strange", every=3600)
    strange.skipped([])
    assert capsys.readouterr().out == ""
    strange.skipped(["x", "y"])
    for _ in range(100):
        strange.skipped(["x"])
    assert capsys.readouterr().out.count("skipped") == 1
    often = Strange("strange", every=0)
    for number in (1, 2):
        often.skipped(["x"] * number)
        assert f"skipped={number}" in capsys.readouterr().out


def test_of_what_is_about_others_nothing_is_looked_at() -> None:
    mine, gone, others = (
        Notice(new_task_id(), 1, state) for state in (TaskState.WORKING, None, TaskState.FAILED)
    )
    wanted = {str(mine.task_id), str(gone.task_id)}
    assert understood(spoken([others, mine, gone]), wanted) == ([mine, gone], [])
    assert understood(orjson.dumps([["somebody's", "own"], [str(mine.task_id), "?", "?"], 7]), wanted) == (
        [],
        [[str(mine.task_id), "?", "?"], 7],
    )
