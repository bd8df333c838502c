"""Which agents a process serves, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.agents import chosen, load_agents
from perdure.errors import ConfigError
from perdure.settings import Settings


def write(folder: Path, name: str, called: str | None = None) -> str:
    file = folder / f"{name}.py"
    file.write_text(
        f"from perdure.agent import bindufy\nbindufy({{'name': {called or name!r}}}, lambda messages: None)\n"
    )
    return str(file)


def test_an_only_agent_has_no_name(tmp_path: Path) -> None:
    agents = load_agents(Settings(agent=write(tmp_path, "weather")))
    assert [(name, agent.config.name) for name, agent in agents.items()] == [("", "weather")]


def test_several_are_called_as_their_configs_say_or_as_is_said_here(tmp_path: Path) -> None:
    weather, travel = write(tmp_path, "weather"), write(tmp_path, "travel", "Travel Agent")
    agents = load_agents(Settings(agents=f" {weather}, trips={travel} ,"))
    assert [(name, agent.config.name) for name, agent in agents.items()] == [
        ("weather", "weather"),
        ("trips", "Travel Agent"),
    ]


def test_one_of_several_has_its_name(tmp_path: Path) -> None:
    assert list(load_agents(Settings(agents=write(tmp_path, "weather")))) == ["weather"]


@pytest.mark.parametrize(
    ("called", "what"),
    [
        ("Travel Agent", "cannot be the name of one of several agents"),
        ("a/b", "cannot be the name"),
        ("tasks", "cannot be the name"),
        ("V1", "cannot be the name"),
        ("x" * 64, "cannot be the name"),
        ("WEATHER", "are both called WEATHER"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, called: str, what: str) -> None:
    weather, other = write(tmp_path, "weather"), write(tmp_path, "other", called)
    with pytest.raises(ConfigError, match=what) as caught:
        load_agents(Settings(agents=f"{weather},{other}"))
    assert f"={other}" in str(caught.value)  # how to give it another name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (Settings(), "which agent"),
        (Settings(agents=" , "), "AGENTS names no agent"),
        (Settings(agent="a.py", agents="b.py"), "AGENT and AGENTS are both set"),
        (Settings(agents="no/such.py"), "there is no file"),
    ],
)
def test_settings_that_name_nothing_or_too_much(settings: Settings, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_agents(settings)


# ---------------------------------------------------------------------- on the command line

SEVERAL = Settings(agents="weather.py,trips=pkg.travel:agent")


def test_what_the_command_line_names() -> None:
    nothing = Settings(agent="a.py")
    assert chosen(nothing, []) == nothing
    one = chosen(nothing, ["b.py"])
    assert (one.agent, one.agents) == ("b.py", None)
    two = chosen(nothing, ["b.py", "c=c.py"])
    assert (two.agent, two.agents) == (None, "b.py,c=c.py")
    named = chosen(nothing, ["c=c.py"])
    assert (named.agent, named.agents) == (None, "c=c.py")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("weather.py", "weather.py"),
        ("./weather.py", "weather.py"),
        ("trips", "trips=pkg.travel:agent"),
        ("pkg.travel:agent", "trips=pkg.travel:agent"),
        ("trips=pkg.travel:agent", "trips=pkg.travel:agent"),
    ],
)
def test_a_part_of_several(asked: str, found: str) -> None:
    """It is still one of several, with its name; the others are not loaded."""
    part = chosen(SEVERAL, [asked])
    assert (part.agent, part.agents) == (None, found)


def test_what_is_none_of_them() -> None:
    with pytest.raises(
        ConfigError, match=r"other.py is none of AGENTS, which are weather.py, pkg.travel:agent"
    ):
        chosen(SEVERAL, ["weather.py", "other.py"])
