"""What an author gets wrong is said in words for authors: a config, the skills in it, the functions beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perdure import bindufy, skill
from perdure.errors import ConfigError


class Echo:
    def answer(self, messages: list[dict[str, str]]) -> str:
        return messages[-1]["content"]

    @skill
    def repeat(self, text: str) -> str:
        """Says it again."""
        return text


def answer(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"descriptions": "d"}, "descriptions: there is no such member; did you mean description?"),
        (
            {"defaultInputModes": []},
            "defaultInputModes: there is no such member; did you mean default_input_modes?",
        ),
        ({"colour": "red"}, "colour: there is no such member"),
        (
            {"capabilities": {"pushNotifications": True}},
            "capabilities.pushNotifications: there is no such member; did you mean push_notifications?",
        ),
        (
            {"limits": [{"max_runing": 1, "max_running": 1}]},
            "limits.0.max_runing: there is no such member; did you mean max_running?",
        ),
        (
            {"security_schemes": {"key": {"type": "http", "scheme": "bearer", "schemes": "x"}}},
            "security_schemes.key.http.schemes: there is no such member",
        ),
        ({"limits": [{}]}, "limits.0.max_running: is required"),
        ({3: 4}, "3: members are named by text"),
        ({"default_input_modes": "text/plain"}, "default_input_modes: must be a list, also of one"),
        ({"retry_on": ValueError}, "retry_on: must be a list"),
        ({"security": [{"key": []}]}, "security names key, which security_schemes does not have"),
        (
            {"skills": [answer]},
            "skills.0: must be a name, a folder or a dict; functions are given in the handler's place",
        ),
        ({"name": "  "}, "name: String should have at least 1 character"),
    ],
)
def test_a_wrong_member_is_named_with_what_to_do(member: dict[Any, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        bindufy({"name": "echo", **member}, answer)
    assert str(error.value) == f"the agent's config is wrong: {said}"


def test_a_name_is_taken_without_the_blanks_around_it() -> None:
    assert bindufy({"name": " echo "}, answer).config.name == "echo"


def test_two_skills_of_a_config_have_ids_of_their_own() -> None:
    with pytest.raises(ConfigError, match="two skills have the id echo"):
        bindufy({"name": "echo", "skills": ["echo", {"name": "Echo", "id": "echo"}]}, answer)


@pytest.mark.parametrize("handler", [lambda turn: "", lambda turn, messages: ""])
def test_a_handler_that_would_be_given_the_messages_as_its_turn(handler: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"must take \(messages\) or \(messages, turn\), not \(turn"):
        bindufy({"name": "echo"}, handler)


@pytest.mark.parametrize("function", [Echo.answer, Echo.repeat])
def test_a_method_without_its_object(function: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"give MyAgent\(\)\.method, not MyAgent\.method"):
        bindufy({"name": "echo"}, function)


@pytest.mark.parametrize("function", [Echo().answer, Echo().repeat])
def test_a_method_with_its_object(function: Callable[..., str]) -> None:
    assert bindufy({"name": "echo"}, function).config.name == "echo"
