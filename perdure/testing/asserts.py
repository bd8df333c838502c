"""What a test expects of a task, with messages that say what it did instead."""

from __future__ import annotations

import re
from typing import NoReturn

from perdure.agent import Progress
from perdure.tasks import ArtifactChunk, Message, StatusChange, TaskState

from .result import Happening, Result

Wanted = str | re.Pattern[str] | None
"""A text is compared, a pattern is searched for; None: any."""

_LONGEST = 200
"""Characters of a text that are shown."""


def assert_completed(result: Result, text: Wanted = None) -> None:
    """The task is completed; `text` is that of all its artifacts, or of its last message where it has none."""
    __tracebackhide__ = True
    _assert_state(result, TaskState.COMPLETED)
    _assert_text(result, "text", result.text or result.status, text)


def assert_asked(result: Result, question: Wanted = None) -> None:
    """The task waits for its caller's answer to `question`."""
    __tracebackhide__ = True
    _assert_state(result, TaskState.INPUT_REQUIRED)
    _assert_text(result, "question", result.status, question)


def assert_rejected(result: Result, reason: Wanted = None) -> None:
    """The agent refused the task."""
    __tracebackhide__ = True
    _assert_state(result, TaskState.REJECTED)
    _assert_text(result, "reason", result.status, reason)


def assert_failed(result: Result, text: Wanted = None, *, error: Wanted = None) -> None:
    """The task failed. `text` is what its caller is told, `error` the last line of what the handler raised, as
    `"ValueError: no such city"`."""
    __tracebackhide__ = True
    _assert_state(result, TaskState.FAILED)
    _assert_text(result, "text", result.status, text)
    _assert_text(result, "error", (result.traceback.strip().splitlines() or [""])[-1], error)


def assert_canceled(result: Result) -> None:
    """The task was canceled."""
    __tracebackhide__ = True
    _assert_state(result, TaskState.CANCELED)


def _assert_state(result: Result, state: TaskState) -> None:
    __tracebackhide__ = True
    if result.state is not state:
        _fail(result, f"the task should be {state}, and is {result.state}")


def _assert_text(result: Result, what: str, found: str, wanted: Wanted) -> None:
    __tracebackhide__ = True
    if isinstance(wanted, re.Pattern):
        if not wanted.search(found):
            _fail(result, f"its {what} should match {wanted.pattern!r}, and is {found!r}")
    elif wanted is not None and found != wanted:
        _fail(result, f"its {what} should be {wanted!r}, and is {found!r}")


def _fail(result: Result, what: str) -> NoReturn:
    __tracebackhide__ = True
    lines = [
        f"state     {result.state}",
        f"status    {_short(result.status)}",
        f"text      {_short(result.text)}",
        f"attempts  {result.attempts}, {result.failures} failed, {result.crashes} crashed",
    ]
    if result.retry is not None:
        after = "the usual pause" if result.retry.after is None else f"{result.retry.after:g} s"
        lines.append(f"retry     after {after}: {result.retry.reason or 'no reason given'}")
    lines += ["events", *(f"  {_told(event)}" for event in result.events)]
    if result.traceback:
        lines += ["the handler raised", *(f"  {line}" for line in result.traceback.rstrip().splitlines())]
    raise AssertionError("\n".join([what, *lines]))


def _told(event: Happening) -> str:
    match event:
        case Message():
            return f"{event.role}: {_short(event.text)}"
        case ArtifactChunk(artifact=artifact):
            return f"artifact: {_short(artifact.text or repr(artifact.parts))}"
        case Progress(fraction=fraction, note=note):
            return f"progress: {'' if fraction is None else f'{fraction:.0%} '}{note}"
        case StatusChange(state=state, message=message):
            return f"{state}: {_short(message.text)}" if message else str(state)


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
