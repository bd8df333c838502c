"""The checker: what must hold of a whole run, a function a rule. Jepsen style: what is `unknown` may have been done or not.

`check` judges a `History`; it knows no process and no server, and tests/chaos/test_checker.py plants a violation of every rule.

An *attempt* is one claim of a task. It is *effective* when its own last event is a status that ends the turn (it settled); *lost*
when the task was taken from it; a canceled task's last attempt is neither.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TypeVar

from tests.chaos.history import HELD_UP, TERMINAL, Effect, Event, History, Op, TaskRow, View

T = TypeVar("T")

A_MOMENT = 1.0
"""Seconds that a process which was let go on may take until its handler begins."""


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept."""

    rule: str
    task: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """What the checker found."""

    violations: Sequence[Violation]
    tasks: int
    stood_still: float
    """The longest time that a conversation stood still: seconds between two events of it while one of its tasks was submitted or
    working, less the pause that its handler was told to make."""
    stood_still_task: str


Found = Iterator[tuple[str, str]]
"""Task and what is wrong with it."""


def check(history: History) -> Verdict:
    """Judge a run."""
    violations = [
        Violation(rule, task, what) for rule, broken in RULES.items() for task, what in broken(history)
    ]
    seconds, task = stood_still(history)
    return Verdict(violations, len(history.tasks), seconds, task)


# ---------------------------------------------------------------------- what was acknowledged


def acknowledged_tasks_end(history: History) -> Found:
    """Every task that a client was told of is there, and has ended."""
    for task in sorted({op.task or op.asked for op in history.ops if op.task}):
        row = history.tasks.get(task)
        if row is None:
            yield task, "was acknowledged and is not there"
        elif row.state not in TERMINAL:
            yield task, f"was acknowledged and is still {row.state}"


def ends_are_as_asked(history: History) -> Found:
    """A task completes, unless it was told to fail or somebody canceled it."""
    canceled = {op.asked for op in history.ops if op.do == "cancel" and op.outcome != "fail"}
    for row in history.tasks.values():
        allowed = {"failed" if row.fail else "completed"} | ({"canceled"} if row.task in canceled else set())
        if row.state in TERMINAL and row.state not in allowed:
            yield row.task, f"is {row.state}; allowed: {', '.join(sorted(allowed))}"


def one_task_for_each_send(history: History) -> Found:
    """One message, one task, however often it was sent with its idempotency key; none when it was refused."""
    tasks = defaultdict(list)
    for row in history.tasks.values():
        tasks[row.tag].append(row.task)
    for tag, sends in _by(history.ops, lambda op: op.tag if op.sends else "").items():
        if len(tasks[tag]) > 1:
            yield tasks[tag][1], f"is a second task of the message {tag}: {tasks[tag]}"
        if tasks[tag] and all(op.outcome == "fail" for op in sends):
            yield tasks[tag][0], f"exists although its message {tag} was refused"
        for told in {op.task for op in sends if op.outcome == "ok"} & history.tasks.keys():
            if history.tasks[told].tag != tag:
                yield told, f"was given for the message {tag} and is the task of {history.tasks[told].tag}"


def one_task_for_each_key(history: History) -> Found:
    """Whoever sends an idempotency key again is told of the same task."""
    for key, sends in _by(history.ops, lambda op: op.key).items():
        told = sorted({op.task for op in sends if op.outcome == "ok"})
        if len(told) > 1:
            yield told[1], f"was given for the key {key}, and so was {told[0]}"


def answers_arrive_once(history: History) -> Found:
    """An acknowledged message to a task is in its history once, a refused one is not, an unknown one at most once."""
    said = {view.task: Counter(view.asked) for view in history.views if view.source == "postgres"}
    allowed = {"ok": (1,), "fail": (0,), "unknown": (0, 1)}
    for op in history.ops:
        if op.do == "answer":
            times = said.get(op.asked, Counter())[op.tag]
            if times not in allowed[op.outcome]:
                yield op.asked, f"has the message {op.tag} {times} times; its sender was told: {op.outcome}"


def terminal_is_final(history: History) -> Found:
    """Where a client saw a task end, it stayed: above all canceled ones."""
    for op in history.ops:
        row = history.tasks.get(op.task)
        if row is not None and op.state in TERMINAL and op.outcome == "ok" and row.state != op.state:
            yield row.task, f"was {op.state} for a client ({op.do}) and is now {row.state}"


def canceled_stays_canceled(history: History) -> Found:
    """A cancel that was acknowledged ends the task canceled, by its last event."""
    for op in history.ops:
        row = history.tasks.get(op.asked)
        if op.do == "cancel" and op.outcome == "ok" and row is not None:
            last = row.events[-1].said if row.events else "nothing"
            if (row.state, last) != ("canceled", "canceled"):
                yield row.task, f"was canceled and is {row.state}, its last event is {last}"


# ---------------------------------------------------------------------- the log


def events_are_numbered(history: History) -> Found:
    """A task's events are 1, 2, 3 ... n, without a gap or a duplicate, and the task knows n."""
    for row in history.tasks.values():
        expected = 1
        for event in row.events:
            if event.first_seq != expected or event.seq < event.first_seq:
                yield row.task, f"has event {event.first_seq}..{event.seq} where {expected} comes next"
                break
            expected = event.seq + 1
        else:
            if row.last_seq != expected - 1:
                yield row.task, f"counts {row.last_seq} events and has {expected - 1}"


def one_end(history: History) -> Found:
    """A task that has ended has one event that ends it, the last, and says the same."""
    for row in history.tasks.values():
        ends = [event for event in row.events if event.kind == "status" and event.said in TERMINAL]
        if row.state in TERMINAL and len(ends) != 1:
            yield row.task, f"ended {len(ends)} times: {[event.said for event in ends]}"
        elif ends and (ends[0] is not row.events[-1] or ends[0].said != row.state):
            yield row.task, f"is {row.state}; {ends[0].said} is its event {ends[0].seq} of {row.last_seq}"


def fenced_attempts_write_nothing(history: History) -> Found:
    """An attempt writes between its claim and its end, or the moment it lost the task, and never again."""
    for row in history.tasks.values():
        holder = last = 0
        for event in row.events:
            if event.attempt and event.kind == "status" and event.said == "working" and event.attempt > last:
                if holder:
                    yield row.task, f"was claimed by attempt {event.attempt} while {holder} held it"
                holder = last = event.attempt
            elif event.attempt and event.attempt != holder:
                yield (
                    row.task,
                    f"has event {event.seq} of attempt {event.attempt} while {holder or 'nobody'} held it",
                )
            if event.kind == "status" and event.said != "working":
                holder = 0


def words_are_the_attempts_own(history: History) -> Found:
    """What an event says is what the handler of that task and that attempt said."""
    for row in history.tasks.values():
        for event in row.events:
            if event.kind == "artifact":
                for tag, attempt, _ in _words(event.said):
                    if (tag, attempt) != (row.tag, event.attempt):
                        yield (
                            row.task,
                            f"has words of {tag}/{attempt} in event {event.seq} of attempt {event.attempt}",
                        )


def streams_are_parts_of_the_log(history: History) -> Found:
    """A stream shows the task's events in order, from wherever it begins, each as it is in the log and none left out."""
    for op in history.ops:
        row = history.tasks.get(op.task or op.asked)
        if op.frames and row is not None:
            yield from ((row.task, f"{what} (operation {op.number})") for what in _misheard(history, row, op))


def _misheard(history: History, row: TaskRow, op: Op) -> Iterator[str]:
    log = {event.seq: event for event in row.events if event.kind != "message"}
    first, seen = op.frames[0], [frame.seq for frame in op.frames if frame.kind != "snapshot"]
    if seen != sorted(set(seen)):
        yield f"a stream gave the events {seen}"
    for frame in op.frames:
        event = log.get(frame.seq)
        if frame.kind != "snapshot" and (
            event is None or (event.kind, event.said) != (frame.kind, frame.said)
        ):
            yield f"a stream gave {frame.kind} {frame.said!r} as event {frame.seq}; the log has {event}"
    start = first.seq if first.kind == "snapshot" else first.seq - 1
    left_out = [seq for seq in log if start < seq <= op.frames[-1].seq and seq not in seen]
    if left_out:
        yield f"a stream left out the events {left_out}"


def stream_resumes_without_gap(history: History) -> Found:
    """A stream that is taken up behind event n begins with the next one that is shown."""
    last: dict[tuple[int, str], int] = {}
    for op in history.ops:
        row = history.tasks.get(op.task or op.asked)
        if op.do not in ("stream", "resubscribe") or not op.frames or row is None:
            continue
        before = last.get((op.client, row.task))
        if op.do == "resubscribe" and before is not None:
            shown = [event.seq for event in row.events if event.kind != "message" and event.seq > before]
            if shown[:1] != [op.frames[0].seq]:
                yield (
                    row.task,
                    f"was taken up behind event {before} with {op.frames[0].seq}, next is {shown[:1]}",
                )
        last[op.client, row.task] = op.frames[-1].seq


# ---------------------------------------------------------------------- the work


def one_effect_for_each_attempt(history: History) -> Found:
    """No attempt is begun twice or without a claim; an effective one has begun and come to its end, once."""
    marks = _marks(history.effects)
    begun: dict[str, set[int]] = defaultdict(set)
    for task, attempt in marks:
        begun[task].add(attempt)
    for row in history.tasks.values():
        claimed = {
            event.attempt for event in row.events if event.said == "working" and event.kind == "status"
        }
        for attempt in sorted(claimed | begun[row.task]):
            done = Counter(mark.what for mark in marks.get((row.task, attempt), ()))
            if done["begin"] > 1 or (done["begin"] and attempt not in claimed):
                yield (
                    row.task,
                    f"attempt {attempt} was begun {done['begin']} times, claimed {attempt in claimed}",
                )
        for attempt in _effective(row):
            done = Counter(mark.what for mark in marks.get((row.task, attempt), ()))
            if done != Counter(begin=1, end=1):
                yield row.task, f"attempt {attempt} counts, and its handler left the marks {dict(done)}"


def lost_attempts_do_not_count(history: History) -> Found:
    """An attempt that lost its task did not settle, and a task completes by an attempt that has not lost it."""
    for row in history.tasks.values():
        both = set(_effective(row)) & set(row.lost)
        if both:
            yield row.task, f"attempts {sorted(both)} are lost and settled"
        if row.state == "completed" and row.events and row.events[-1].attempt in (0, *row.lost):
            yield row.task, f"was completed by attempt {row.events[-1].attempt}"


def only_what_counts_is_shown(history: History) -> Found:
    """Artifacts and history show all that effective attempts said, and nothing of lost ones."""
    for view in history.views:
        row = history.tasks.get(view.task)
        if row is not None:
            yield from ((view.task, f"{what} ({view.source})") for what in _misshown(row, view))


def _misshown(row: TaskRow, view: View) -> Iterator[str]:
    if view.state != row.state:
        yield f"is {row.state} and shown as {view.state}"
    effective, shown = _effective(row), []
    for artifact in view.artifacts:
        words = _words(artifact)
        attempts = {(tag, attempt) for tag, attempt, _ in words}
        numbers = [number for _, _, number in words]
        attempt = words[0][1] if words else 0
        shown.append(attempt)
        whole = list(range(row.chunks)) if attempt in effective else list(range(len(numbers)))
        if len(attempts) != 1 or attempts != {(row.tag, attempt)} or attempt in row.lost or numbers != whole:
            yield f"shows the artifact {artifact!r}; effective attempts: {effective}, lost: {list(row.lost)}"
    for attempt in effective:
        if shown.count(attempt) != 1:
            yield f"shows {shown.count(attempt)} artifacts of attempt {attempt}"
    said = [event.message for event in row.events if event.message and event.attempt in effective]
    if sorted(view.said) != sorted(said):
        yield f"shows the messages {list(view.said)} and not {said}"


def turns_of_a_conversation_never_overlap(history: History) -> Found:
    """By the log: a turn of a conversation is claimed when the one before it has ended or was taken back."""
    for rows in _by(history.tasks.values(), lambda row: row.context).values():
        turns = sorted(turn for row in rows for turn in _turns(row))
        for (_, ended, task, attempt), (claimed, _, next_task, next_attempt) in pairwise(turns):
            if claimed < ended:
                yield (
                    next_task,
                    f"attempt {next_attempt} began {ended - claimed:.3f} s before the end of attempt {attempt} of {task}",
                )


def handlers_of_a_conversation_never_overlap(history: History) -> Found:
    """By the handlers' own marks: as above, but for an attempt that lost its task to a takeover, or was canceled, while its
    process was out of reach; what such a one says is refused."""
    for marks in _by(history.effects, lambda mark: mark.context).values():
        works = sorted(_works(history, marks), key=lambda work: work.begun)
        for number, work in enumerate(works):
            for later in works[number + 1 :]:
                if later.begun < work.ended and not _may_overlap(history, work, later):
                    early = work.ended - later.begun
                    what = f"the end of attempt {work.mark.attempt} of {work.mark.task} on {work.mark.pid}"
                    yield later.mark.task, f"attempt {later.mark.attempt} began {early:.3f} s before {what}"


@dataclass(frozen=True)
class _Work:
    mark: Effect
    begun: float
    ended: float


def _works(history: History, marks: Iterable[Effect]) -> Iterator[_Work]:
    for of_one in _by(marks, lambda mark: f"{mark.task} {mark.attempt} {mark.pid}").values():
        ends = [mark.at for mark in of_one if mark.what != "begin"]
        for mark in of_one:
            if mark.what == "begin":
                yield _Work(mark, mark.at, min(ends, default=history.deaths.get(mark.pid, inf)))


def _may_overlap(history: History, work: _Work, later: _Work) -> bool:
    """Whether the earlier one's process could not be reached while it lost its task or was to be told to stop. (Frozen between
    its claim and its begin, a lost attempt may even be the one that begins later: when it wakes up.)"""
    row = history.tasks.get(work.mark.task)
    canceled = row is not None and row.state == "canceled" and work.mark.attempt == row.attempt
    lost = canceled or _was_taken_over(history, work)
    if lost and _out_of_reach(history, work.mark.pid, work.begun - A_MOMENT, later.begun):
        return True
    late = _was_taken_over(history, later)
    return late and _out_of_reach(history, later.mark.pid, later.begun - A_MOMENT, later.begun)


def _was_taken_over(history: History, work: _Work) -> bool:
    """Whether it lost its task, and not by its own release, which comes after its handler's end."""
    row = history.tasks.get(work.mark.task)
    if row is None or work.mark.attempt not in row.lost:
        return False
    statuses = [event for event in row.events if event.kind == "status"]
    own = [event.seq for event in statuses if event.attempt == work.mark.attempt]
    after = [event for event in statuses if own and event.seq > own[0] and event.said == "submitted"]
    return bool(after) and after[0].reason == "crash"


SEPARATES = ("freeze", "cut", "hold", "delay", "restart postgres")
"""How the kinds of faults begin that can part a process from its database."""


def _out_of_reach(history: History, pid: int, begin: float, end: float) -> bool:
    """Whether a fault that parts this process, or everybody, from the database was under way in between."""
    return any(
        fault.at < end
        and fault.ended > begin
        and fault.kind.startswith(SEPARATES)
        and (not fault.targets or pid in fault.targets)
        for fault in history.faults
    )


# ---------------------------------------------------------------------- what is left


def nothing_is_left_in_redis(history: History) -> Found:
    """Every key that is left in Redis goes by itself."""
    for key, seconds in history.redis.items():
        if seconds < 0:
            yield "", f"the key {key} stays for ever"


def nothing_is_held(history: History) -> Found:
    """No lease, no conversation's slot and no count outlives the tasks it was for."""
    for held in history.held:
        yield "", f"is still there: {held}"


def no_process_gives_up(history: History) -> Found:
    """No process ends that nobody told to end, and none with an error."""
    for name in history.unasked:
        yield "", f"ended by itself, or with an error: {name}"


RULES: Mapping[str, Callable[[History], Found]] = {
    rule.__name__.replace("_", " "): rule
    for rule in (
        acknowledged_tasks_end,
        ends_are_as_asked,
        one_task_for_each_send,
        one_task_for_each_key,
        answers_arrive_once,
        terminal_is_final,
        canceled_stays_canceled,
        events_are_numbered,
        one_end,
        fenced_attempts_write_nothing,
        words_are_the_attempts_own,
        streams_are_parts_of_the_log,
        stream_resumes_without_gap,
        one_effect_for_each_attempt,
        lost_attempts_do_not_count,
        only_what_counts_is_shown,
        turns_of_a_conversation_never_overlap,
        handlers_of_a_conversation_never_overlap,
        nothing_is_left_in_redis,
        nothing_is_held,
        no_process_gives_up,
    )
}
"""Their names are what is printed."""


# ---------------------------------------------------------------------- reading a task


def stood_still(history: History) -> tuple[float, str]:
    """See `Verdict.stood_still`; and a task of the conversation."""
    longest, where = 0.0, ""
    for rows in _by(history.tasks.values(), lambda row: row.context).values():
        pause = max(row.pause for row in rows)
        states: dict[str, str] = {}
        log = sorted(
            ((event.time, row.task, event.seq, event) for row in rows for event in row.events),
            key=lambda at: at[:3],
        )
        for (time, task, _, event), (next_time, *_) in pairwise(log):
            states[task] = event.said if event.kind == "status" else states.get(task, "submitted")
            if any(state in HELD_UP for state in states.values()) and next_time - time - pause > longest:
                longest, where = next_time - time - pause, task
    return longest, where


def _effective(row: TaskRow) -> list[int]:
    """The attempts that settled."""
    return [
        event.attempt
        for event in row.events
        if event.kind == "status" and event.attempt and event.said != "working"
    ]


def _turns(row: TaskRow) -> Iterator[tuple[float, float, str, int]]:
    """When each attempt held the task: from, to, the task, the attempt."""
    held: Event | None = None
    for event in row.events:
        if event.kind != "status":
            continue
        if event.said != "working":
            if held is not None:
                yield held.time, event.time, row.task, held.attempt
            held = None
        elif held is None:
            held = event
    if held is not None:
        yield held.time, inf, row.task, held.attempt


def _words(text: str) -> list[tuple[str, int, int]]:
    """`t1.2/3.4 ` is word 4 of attempt 3 for the message t1.2. What is no word is one of nobody's."""
    return [
        (found["tag"], int(found["attempt"]), int(found["number"]))
        if (found := re.fullmatch(r"(?P<tag>\S+)/(?P<attempt>\d+)\.(?P<number>\d+)", word))
        else (word, -1, -1)
        for word in text.split()
    ]


def _marks(effects: Iterable[Effect]) -> Mapping[tuple[str, int], list[Effect]]:
    marks: dict[tuple[str, int], list[Effect]] = defaultdict(list)
    for effect in effects:
        marks[effect.task, effect.attempt].append(effect)
    return marks


def _by(items: Iterable[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    """Grouped by a name; without those that have none."""
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        if found := name(item):
            groups[found].append(item)
    return groups
