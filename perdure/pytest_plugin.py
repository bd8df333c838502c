"""Fixtures for tests of agents, for pytest, which finds them by itself where Perdure is installed.

    # pyproject.toml: which agent, by a file's path (from the folder of this file) or as module:attribute
    [tool.pytest.ini_options]
    perdure_agent = "my_agent.py"

    # test_my_agent.py
    def test_it_repeats(run_agent):
        assert run_agent("hello").text == "hello"

    def test_a_conversation(perdure_harness):
        asked = perdure_harness.send("What is the weather?")

With several agents define a fixture `perdure_agent` of your own, which returns a handler or an Agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # Imported by every run of pytest, with Perdure's agents or not: what takes time comes later.
    from perdure.testing import Harness, Result

_SETTING = "perdure_agent"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting."""
    parser.addini(
        _SETTING, "The agent of the fixtures run_agent and perdure_harness: a file or module:attribute"
    )


@pytest.fixture
def perdure_agent(pytestconfig: pytest.Config) -> Any:
    """The agent that the other fixtures run. Define your own to choose another."""
    from perdure.agent.loader import load_agent

    named = str(pytestconfig.getini(_SETTING))
    if not named:
        pytest.fail(
            "which agent? Set perdure_agent in pytest's configuration, or define a fixture of that name that returns it",
            pytrace=False,
        )
    here = (pytestconfig.rootpath / named.partition(":")[0]).is_file()
    return load_agent(str(pytestconfig.rootpath / named) if here else named)


@pytest.fixture
def run_agent(perdure_agent: Any) -> Callable[..., Result]:
    """`perdure.testing.run_sync` with the agent: one turn of it."""
    from perdure.testing import run_sync

    def run_agent(*args: Any, **kwargs: Any) -> Result:
        return run_sync(perdure_agent, *args, **kwargs)

    return run_agent


@pytest.fixture
def perdure_harness(perdure_agent: Any) -> Iterator[Harness]:
    """A `perdure.testing.Harness` of the agent, closed at the end of the test."""
    from perdure.testing import Harness

    with Harness(perdure_agent) as harness:
        yield harness
