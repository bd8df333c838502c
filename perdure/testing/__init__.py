"""How an author tests an agent: without a network, a database or Redis, by the code that runs it in a worker.

    from perdure.testing import Harness, assert_asked, assert_completed, run_sync
    from my_agent import agent

    def test_one_turn():
        assert_completed(run_sync(agent, "hello"), "HELLO")

    def test_a_conversation():
        with Harness(agent) as harness:
            asked = harness.send("What is the weather?")
            assert_asked(asked, "Which city?")
            assert_completed(harness.send("Lisbon", after=asked), "It is sunny in Lisbon.")

`run` (in a test that is a coroutine) and `run_sync` run one turn and show what it gave. A `Harness` keeps tasks: conversations,
retries, cancels, crashes and deploys, on a clock that the test moves. All of them take a handler or an Agent. What is said is a
text (the caller's), `{"role": "user"|"assistant", "content": str}` or a Message; for `run` also a list of these, oldest first.

pytest has fixtures for both once Perdure is installed: `perdure.pytest_plugin`.
"""

from __future__ import annotations

from .asserts import assert_asked, assert_canceled, assert_completed, assert_failed, assert_rejected
from .harness import Harness
from .one_turn import Said, run, run_sync
from .result import Result

__all__ = [
    "Harness",
    "Result",
    "Said",
    "assert_asked",
    "assert_canceled",
    "assert_completed",
    "assert_failed",
    "assert_rejected",
    "run",
    "run_sync",
]
