"""The checker finds what it is there for: a violation of every rule is planted into a run that is clean without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import RULES, check
from tests.chaos.history import (
    Effect,
    Event,
    Fault,
    Frame,
    History,
    Op,
    Recorder,
    TaskRow,
    View,
    keep,
    load,
)

WORKER, OTHER = 100, 200


def words(attempt: int, *numbers: int, tag: str = "t1") -> str:
    return "".join(f"{tag}/{attempt}.{number} " for number in numbers)


def log(*said: tuple[str, int, str], begin: float = 0.0, reason: str = "crash") -> list[Event]:
    """Events, a second each: kind, attempt, what is said (`input-required: what?` is a status with a message)."""
    events = []
    for seq, (kind, attempt, text) in enumerate(said, 1):
        state, _, message = text.partition(": ") if kind == "status" else (text, "", "")
        why = reason if (kind, attempt, state) == ("status", 0, "submitted") else ""
        event = Event(
            seq=seq, first_seq=seq, kind=kind, attempt=attempt, said=state, time=begin + seq, message=message
        )
        events.append(replace(event, reason=why))
    return events


def marks(
    task: str,
    context: str,
    tag: str,
    attempt: int,
    begin: float,
    end: float | None,
    *,
    pid: int,
    how: str = "end",
) -> list[Effect]:
    mark = Effect(what="begin", task=task, context=context, tag=tag, attempt=attempt, pid=pid, at=begin)
    return [mark] if end is None else [mark, replace(mark, what=how, at=end)]


def clean() -> History:
    """Three tasks of one conversation: one that ran twice, since its worker died, and was streamed; one that asked back and was
    sent with a key, twice; one that was canceled at its work."""
    ran_twice = TaskRow(
        task="one", context="talk", tag="t1", pause=0.1, chunks=2, state="completed", attempt=2, lost=[1], last_seq=8,
        events=log(
            ("message", 0, "order t1"), ("status", 1, "working"), ("artifact", 1, words(1, 0)), ("status", 0, "submitted"),
            ("status", 2, "working"), ("artifact", 2, words(2, 0)), ("artifact", 2, words(2, 1)), ("status", 2, "completed"),
        ),
    )  # fmt: skip
    asked_back = TaskRow(
        task="two", context="talk", tag="t2", pause=0.1, chunks=1, state="completed", attempt=2, lost=[], last_seq=9,
        events=log(
            ("message", 0, "order t2"), ("status", 1, "working"), ("artifact", 1, words(1, 0, tag="t2")),
            ("status", 1, "input-required: t2/1?"), ("message", 0, "t2.answer"), ("status", 0, "submitted"),
            ("status", 2, "working"), ("artifact", 2, words(2, 0, tag="t2")), ("status", 2, "completed"),
            begin=10, reason="",
        ),
    )  # fmt: skip
    canceled = TaskRow(
        task="three", context="talk", tag="t3", pause=0.1, chunks=9, state="canceled", attempt=1, lost=[], last_seq=4,
        events=log(
            ("message", 0, "order t3"), ("status", 1, "working"), ("artifact", 1, words(1, 0, 1, tag="t3")),
            ("status", 0, "canceled"), begin=20,
        ),
    )  # fmt: skip
    return History(
        ops=[
            Op(
                number=1, client=1, do="stream", tag="t1", outcome="ok", task="one", state="working",
                frames=[
                    Frame(seq=1, kind="snapshot", said="submitted"), Frame(seq=2, kind="status", said="working"),
                    Frame(seq=3, kind="artifact", said=words(1, 0)),
                ],
            ),
            Op(
                number=2, client=1, do="resubscribe", asked="one", outcome="ok", task="one", state="completed",
                frames=[
                    Frame(seq=4, kind="status", said="submitted"), Frame(seq=5, kind="status", said="working"),
                    Frame(seq=6, kind="artifact", said=words(2, 0)), Frame(seq=7, kind="artifact", said=words(2, 1)),
                    Frame(seq=8, kind="status", said="completed"),
                ],
            ),
            Op(number=3, client=2, do="send", tag="t2", key="k"),
            Op(number=4, client=2, do="send", tag="t2", key="k", outcome="ok", task="two", state="input-required"),
            Op(number=5, client=2, do="answer", tag="t2.answer", asked="two", outcome="ok", task="two", state="submitted"),
            Op(number=6, client=2, do="answer", tag="t2.more", asked="two", outcome="fail"),
            Op(number=7, client=3, do="send", tag="t3", outcome="ok", task="three", state="submitted"),
            Op(number=8, client=3, do="cancel", asked="three", outcome="ok", task="three", state="canceled"),
            Op(number=9, client=3, do="send", tag="t4", outcome="fail"),
            Op(number=10, client=3, do="send", tag="t5"),
        ],
        faults=[Fault(kind="kill worker", at=103.5, ended=103.5, targets=[WORKER])],
        effects=[
            *marks("one", "talk", "t1", 1, 102, None, pid=WORKER),
            *marks("one", "talk", "t1", 2, 105, 108, pid=OTHER),
            *marks("two", "talk", "t2", 1, 112, 114, pid=OTHER),
            *marks("two", "talk", "t2", 2, 117, 119, pid=OTHER),
            *marks("three", "talk", "t3", 1, 122, 124, pid=OTHER, how="stopped"),
        ],
        tasks={row.task: row for row in (ran_twice, asked_back, canceled)},
        views=[
            View(task="one", source="postgres", state="completed", asked=["order t1"], said=[], artifacts=[words(2, 0, 1)]),
            View(
                task="two", source="postgres", state="completed", asked=["order t2", "t2.answer"], said=["t2/1?"],
                artifacts=[words(1, 0, tag="t2"), words(2, 0, tag="t2")],
            ),
            View(
                task="three", source="postgres", state="canceled", asked=["order t3"], said=[],
                artifacts=[words(1, 0, 1, tag="t3")],
            ),
        ],
        redis={"perdure:bell": 60},
        deaths={WORKER: 103.5},
    )  # fmt: skip


# ---------------------------------------------------------------------- how to spoil it


def task(history: History, name: str, **changes: Any) -> History:
    return replace(history, tasks={**history.tasks, name: replace(history.tasks[name], **changes)})


def event(history: History, name: str, number: int, /, **changes: Any) -> History:
    events = [replace(each, **changes) if each.seq == number else each for each in history.tasks[name].events]
    return task(history, name, events=events)


def more(history: History, name: str, *events: Event) -> History:
    stored = [*history.tasks[name].events, *events]
    return task(history, name, events=stored, last_seq=len(stored))


def op(history: History, number: int, **changes: Any) -> History:
    return replace(
        history, ops=[replace(each, **changes) if each.number == number else each for each in history.ops]
    )


def frames(history: History, number: int, change: Callable[[Sequence[Frame]], Sequence[Frame]]) -> History:
    return op(
        history, number, frames=change(next(each.frames for each in history.ops if each.number == number))
    )


def shown(history: History, name: str, **changes: Any) -> History:
    return replace(
        history, views=[replace(each, **changes) if each.task == name else each for each in history.views]
    )


def without(history: History, name: str) -> History:
    return replace(history, tasks={key: row for key, row in history.tasks.items() if key != name})


def marked(history: History, *effects: Effect) -> History:
    return replace(history, effects=[*history.effects, *effects])


def unmarked(history: History, name: str, attempt: int, what: str) -> History:
    kept = [each for each in history.effects if (each.task, each.attempt, each.what) != (name, attempt, what)]
    return replace(history, effects=kept)


def retimed(history: History, name: str, attempt: int, what: str, at: float) -> History:
    return replace(
        history,
        effects=[
            replace(each, at=at) if (each.task, each.attempt, each.what) == (name, attempt, what) else each
            for each in history.effects
        ],
    )


def again(history: History, name: str, **changes: Any) -> History:
    """The same task once more under another id."""
    row = replace(history.tasks[name], task="again", context="elsewhere", **changes)
    return replace(history, tasks={**history.tasks, "again": row})


def late_word(attempt: int) -> Event:
    return Event(seq=9, first_seq=9, kind="artifact", attempt=attempt, said=words(attempt, 1), time=9.5)


def end_again(state: str) -> Event:
    return Event(seq=9, first_seq=9, kind="status", attempt=2, said=state, time=9.5)


PLANTS: dict[str, tuple[str, Callable[[History], History]]] = {
    "lost": ("acknowledged tasks end", lambda h: without(h, "one")),
    "stuck": ("acknowledged tasks end", lambda h: task(h, "three", state="working")),
    "failed unasked": ("ends are as asked", lambda h: task(h, "one", state="failed")),
    "canceled unasked": ("ends are as asked", lambda h: task(h, "two", state="canceled")),
    "completed although told to fail": ("ends are as asked", lambda h: task(h, "one", fail=True)),
    "a second task of a key": ("one task for each send", lambda h: again(h, "two")),
    "a second task of an unknown send": (
        "one task for each send",
        lambda h: again(
            replace(h, tasks={**h.tasks, "five": replace(h.tasks["one"], task="five", tag="t5")}),
            "one",
            tag="t5",
        ),
    ),
    "refused and there": ("one task for each send", lambda h: again(h, "one", tag="t4")),
    "another message's task": ("one task for each send", lambda h: op(h, 4, task="one", key="")),
    "another task for the key": ("one task for each key", lambda h: op(h, 3, outcome="ok", task="three")),
    "an answer twice": (
        "answers arrive once",
        lambda h: shown(h, "two", asked=["order t2", "t2.answer", "t2.answer"]),
    ),
    "an answer lost": ("answers arrive once", lambda h: shown(h, "two", asked=["order t2"])),
    "a refused answer": (
        "answers arrive once",
        lambda h: shown(h, "two", asked=["order t2", "t2.answer", "t2.more"]),
    ),
    "an end undone": ("terminal is final", lambda h: op(h, 2, state="failed")),
    "a cancel undone": ("canceled stays canceled", lambda h: task(h, "three", state="completed")),
    "a cancel that is not in the log": (
        "canceled stays canceled",
        lambda h: event(h, "three", 4, said="completed"),
    ),
    "a gap": ("events are numbered", lambda h: event(h, "one", 7, seq=9, first_seq=9)),
    "a duplicate": ("events are numbered", lambda h: event(h, "one", 7, seq=6, first_seq=6)),
    "miscounted": ("events are numbered", lambda h: task(h, "one", last_seq=9)),
    "two ends": ("one end", lambda h: more(h, "one", end_again("completed"))),
    "no end": ("one end", lambda h: event(h, "one", 8, said="working")),
    "the state is not the log's": ("one end", lambda h: task(h, "one", state="canceled")),
    "something after the end": ("one end", lambda h: more(h, "one", late_word(2))),
    "a write after the takeover": ("fenced attempts write nothing", lambda h: event(h, "one", 6, attempt=1)),
    "a write after the end": ("fenced attempts write nothing", lambda h: more(h, "one", late_word(2))),
    "claimed while held": ("fenced attempts write nothing", lambda h: event(h, "one", 4, kind="message")),
    "another attempt's words": ("words are the attempts own", lambda h: event(h, "one", 6, said=words(1, 0))),
    "another task's words": (
        "words are the attempts own",
        lambda h: event(h, "one", 6, said=words(2, 0, tag="t2")),
    ),
    "a stream that leaves out": (
        "streams are parts of the log",
        lambda h: frames(h, 2, lambda f: [f[0], *f[2:]]),
    ),
    "a stream that repeats": (
        "streams are parts of the log",
        lambda h: frames(h, 2, lambda f: [f[0], f[0], *f[1:]]),
    ),
    "a stream out of order": (
        "streams are parts of the log",
        lambda h: frames(h, 2, lambda f: [f[1], f[0], *f[2:]]),
    ),
    "a stream that tells something else": (
        "streams are parts of the log",
        lambda h: frames(h, 2, lambda f: [*f[:2], replace(f[2], said=words(1, 9)), *f[3:]]),
    ),
    "a stream that invents": (
        "streams are parts of the log",
        lambda h: frames(h, 2, lambda f: [*f, Frame(seq=9, kind="status", said="completed")]),
    ),
    "a gap where a stream is resumed": (
        "stream resumes without gap",
        lambda h: frames(h, 2, lambda f: f[1:]),
    ),
    "an attempt begun twice": (
        "one effect for each attempt",
        lambda h: marked(h, *marks("one", "talk", "t1", 2, 108.1, 108.2, pid=WORKER)),
    ),
    "an attempt without a claim": (
        "one effect for each attempt",
        lambda h: marked(h, *marks("one", "talk", "t1", 3, 108.1, 108.2, pid=WORKER)),
    ),
    "settled without being begun": ("one effect for each attempt", lambda h: unmarked(h, "two", 2, "begin")),
    "settled without its effect": ("one effect for each attempt", lambda h: unmarked(h, "two", 2, "end")),
    "lost and settled": ("lost attempts do not count", lambda h: task(h, "two", lost=[1])),
    "completed by nobody": ("lost attempts do not count", lambda h: event(h, "one", 8, attempt=0)),
    "a lost attempt is shown": (
        "only what counts is shown",
        lambda h: shown(h, "one", artifacts=[words(1, 0), words(2, 0, 1)]),
    ),
    "a lost attempt's words within": (
        "only what counts is shown",
        lambda h: shown(h, "one", artifacts=[words(1, 0) + words(2, 0, 1)]),
    ),
    "an effective attempt is not shown": (
        "only what counts is shown",
        lambda h: shown(h, "two", artifacts=[words(1, 0, tag="t2")]),
    ),
    "half an artifact": ("only what counts is shown", lambda h: shown(h, "one", artifacts=[words(2, 0)])),
    "an artifact twice": (
        "only what counts is shown",
        lambda h: shown(h, "one", artifacts=[words(2, 0, 1)] * 2),
    ),
    "a question is not shown": ("only what counts is shown", lambda h: shown(h, "two", said=[])),
    "a question twice": ("only what counts is shown", lambda h: shown(h, "two", said=["t2/1?", "t2/1?"])),
    "another state is shown": ("only what counts is shown", lambda h: shown(h, "one", state="working")),
    "two turns at once": ("turns of a conversation never overlap", lambda h: event(h, "two", 2, time=7.5)),
    "two handlers at once": (
        "handlers of a conversation never overlap",
        lambda h: retimed(h, "two", 1, "end", 118),
    ),
    "the next one before a canceled one has stopped": (
        "handlers of a conversation never overlap",
        lambda h: marked(h, *marks("four", "talk", "t4", 1, 123, 125, pid=OTHER)),
    ),
    "a key without an end": ("nothing is left in redis", lambda h: replace(h, redis={"perdure:queue": -1})),
    "a lease that is left": ("nothing is held", lambda h: replace(h, held=["lease of one"])),
    "a worker that gave up": ("no process gives up", lambda h: replace(h, unasked=["worker-1 (code 1)"])),
}


def test_a_clean_run_passes() -> None:
    verdict = check(clean())
    assert list(verdict.violations) == []
    assert verdict.tasks == 3


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_violation_is_found(plant: str) -> None:
    rule, spoil = PLANTS[plant]
    assert rule in {violation.rule for violation in check(spoil(clean())).violations}


def test_every_rule_has_a_plant() -> None:
    assert {rule for rule, _ in PLANTS.values()} == set(RULES)


def test_what_is_unknown_may_have_been_done_or_not() -> None:
    history = clean()
    assert not check(op(history, 5, outcome="unknown")).violations
    assert not check(shown(op(history, 5, outcome="unknown"), "two", asked=["order t2"])).violations
    assert not check(op(history, 8, outcome="unknown", state="")).violations
    never_sent = op(op(history, 7, outcome="unknown", task=""), 8, outcome="unknown", task="", state="")
    assert not check(without(never_sent, "three")).violations


def test_only_a_worker_out_of_reach_may_go_on_when_its_task_has_been_taken_over() -> None:
    """A frozen worker's handler goes on when it wakes up; what it says is refused."""
    both = marked(clean(), *marks("one", "talk", "t1", 1, 102, 107, pid=WORKER)[1:])
    frozen = Fault(kind="freeze worker", at=102.5, ended=106.5, targets=[WORKER])
    assert not check(replace(both, faults=[frozen])).violations
    for harmless in (
        [],
        [replace(frozen, targets=[OTHER])],
        [replace(frozen, at=90, ended=95)],
        [Fault(kind="stop redis for 10 s", at=100, ended=110)],
    ):
        found = {each.rule for each in check(replace(both, faults=harmless)).violations}
        assert "handlers of a conversation never overlap" in found


def test_an_attempt_that_was_frozen_before_it_began_may_overlap_the_next() -> None:
    """Its worker was stopped between claim and begin for longer than the lease, and woke up while the next one was at work."""
    history = clean()
    late = marked(
        unmarked(history, "one", 1, "begin"), *marks("one", "talk", "t1", 1, 106, 106.1, pid=WORKER)
    )
    assert {each.rule for each in check(late).violations} == {"handlers of a conversation never overlap"}
    frozen = Fault(kind="freeze worker", at=102, ended=105.9, targets=[WORKER])
    assert not check(replace(late, faults=[frozen])).violations


def test_the_longest_standstill() -> None:
    """Six seconds from the loss of the first task's worker to the next claim, less the handler's pause."""
    history = clean()
    for seq in range(5, 9):
        history = event(history, "one", seq, time=4.0 + seq - 5 + 6)
    verdict = check(history)
    assert (round(verdict.stood_still, 3), verdict.stood_still_task) == (5.9, "one")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = clean()
    recorder = Recorder(tmp_path)
    recorder.invoke(1, "send", tag="t1", key="k")
    number = recorder.invoke(2, "get", asked="one")
    recorder.end(
        number, "ok", task="one", state="completed", frames=[{"seq": 1, "kind": "status", "said": "working"}]
    )
    recorder.note("fault", kind="kill worker", begun=1.0, targets=[WORKER])
    recorder.note("ended", name="worker-1", pid=WORKER, code=-9, asked=True)
    recorder.note("ended", name="worker-2", pid=OTHER, code=1, asked=False)
    recorder.close()
    keep(tmp_path, "effects.jsonl", history.effects)
    keep(tmp_path, "tasks.jsonl", history.tasks.values())
    keep(tmp_path, "views.jsonl", history.views)
    (tmp_path / "rest.json").write_text(json.dumps({"redis": history.redis, "held": history.held}))

    read = load(tmp_path)
    assert (read.tasks, read.effects, read.views) == (history.tasks, history.effects, history.views)
    sent, got = read.ops
    assert (sent.do, sent.key, sent.outcome) == ("send", "k", "unknown")
    assert (got.asked, got.outcome, got.state, got.frames) == (
        "one", "ok", "completed", [Frame(seq=1, kind="status", said="working")],
    )  # fmt: skip
    assert got.ended >= got.at
    assert [(fault.kind, fault.at, fault.targets) for fault in read.faults] == [
        ("kill worker", 1.0, [WORKER])
    ]
    assert (set(read.deaths), read.unasked) == ({WORKER, OTHER}, ["worker-2 (code 1)"])
