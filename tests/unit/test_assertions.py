"""perdure.testing's assertions: what they let pass, and what they say of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from perdure import AgentError, DataPart, InputRequired, Message, Rejected, Retry, TextPart, Turn
from perdure.testing import (
    Harness,
    assert_asked,
    assert_canceled,
    assert_completed,
    assert_failed,
    assert_rejected,
    run_sync,
)


def crash(_: Any) -> None:
    raise ValueError("no such city")


def talks(_: Any, turn: Turn) -> DataPart:
    turn.progress(0.5, "half")
    turn.emit(Message(parts=[TextPart("x" * 1000)]))
    return DataPart({"a": 1})


def test_what_is_right_passes() -> None:
    assert_completed(run_sync(lambda _: "sunny", "go"), "sunny")
    assert_completed(run_sync(lambda _: "sunny", "go"), re.compile("^sun"))
    assert_completed(run_sync(lambda _: Message(parts=[TextPart("hi")]), "go"), "hi")
    assert_asked(run_sync(lambda _: InputRequired("which?"), "go"), "which?")
    assert_rejected(run_sync(lambda _: Rejected("not me"), "go"), "not me")
    assert_failed(run_sync(lambda _: AgentError("no flight"), "go"), "no flight")
    assert_failed(run_sync(crash, "go"), error="ValueError: no such city")
    with Harness(crash) as harness:
        assert_failed(harness.send("go"), error=re.compile("no such city"))
        task = harness.start("go", metadata={"perdure": {"notBefore": 60}})
        assert_canceled(harness.cancel(task))


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (lambda: assert_completed(run_sync(crash, "go")), "the task should be completed, and is failed"),
        (lambda: assert_completed(run_sync(lambda _: "rain", "go"), "sun"), "its text should be 'sun', and is 'rain'"),
        (
            lambda: assert_completed(run_sync(lambda _: "rain", "go"), re.compile("sun")),
            "its text should match 'sun', and is 'rain'",
        ),
        (lambda: assert_asked(run_sync(lambda _: "rain", "go")), "the task should be input-required, and is completed"),
        (
            lambda: assert_asked(run_sync(lambda _: InputRequired("when?"), "go"), "which?"),
            "its question should be 'which?', and is 'when?'",
        ),
        (lambda: assert_rejected(run_sync(lambda _: "rain", "go")), "the task should be rejected, and is completed"),
        (lambda: assert_canceled(run_sync(lambda _: "rain", "go")), "the task should be canceled, and is completed"),
        (
            lambda: assert_failed(run_sync(crash, "go"), error="KeyError"),
            "its error should be 'KeyError', and is 'ValueError: no such city'",
        ),
        (lambda: assert_failed(run_sync(lambda _: "rain", "go"), "x"), "the task should be failed, and is completed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(check: Callable[[], None], told: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check()
    assert str(raised.value).splitlines()[0] == told


def test_what_the_handler_raised_is_told() -> None:
    with Harness(crash) as harness:
        results = run_sync(crash, "go"), harness.send("go")
    for result in results:
        with pytest.raises(AssertionError) as raised:
            assert_completed(result)
        lines = str(raised.value).splitlines()
        assert lines[-1] == "  ValueError: no such city"
        assert any('raise ValueError("no such city")' in line for line in lines)


def test_all_that_happened_is_told_in_short() -> None:
    with Harness(talks) as harness, pytest.raises(AssertionError) as raised:
        assert_asked(harness.send("go"))
    told = str(raised.value).splitlines()
    assert "  user: 'go'" in told
    assert "  progress: 50% half" in told
    assert [line for line in told if line.startswith("  agent: 'xxx") and line.endswith("...'")]
    assert [line for line in told if line.startswith("  artifact: ") and "{'a': 1}" in line]
    assert told[-1] == "  completed"
    assert max(map(len, told)) < 300


@pytest.mark.parametrize(
    ("retry", "told"),
    [
        (Retry(after=60, reason="closed"), "retry     after 60 s: closed"),
        (Retry(), "retry     after the usual pause: no reason given"),
    ],
)
def test_a_turn_that_would_be_run_again_says_so(retry: Retry, told: str) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_completed(run_sync(lambda _: retry, "go"))
    assert told in str(raised.value).splitlines()
