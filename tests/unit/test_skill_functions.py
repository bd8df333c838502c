"""Functions that are skills: what the card says of them, which one a message is for, and what becomes of its data."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from perdure import Agent, DataPart, Message, TextPart, Turn, skill
from perdure.agent.loader import load_agent
from perdure.errors import ConfigError
from perdure.tasks import Part, Role, TaskState
from perdure.testing import Result, run, run_sync

Json = dict[str, Any]


@skill(tags=["sky"], examples=["Will it rain?"], name="Forecast", output_modes=["application/json"])
def forecast(
    city: Annotated[str, Field(description="Where", min_length=2)],
    days: int = 3,
    unit: Literal["C", "F"] = "C",
) -> Json:
    """Tells the weather
    of the next days.

    With a model of its own."""
    return {"city": city, "days": days, "unit": unit}


@skill
def shout(text: str) -> str:
    return text.upper()


class Item(BaseModel):
    name: str
    count: int = Field(1, ge=1)


@skill(id="order")
async def place_order(items: list[Item], day: date, *, turn: Turn, json: bool = False) -> str:
    """Orders."""
    assert isinstance(items[0], Item)
    assert isinstance(day, date)
    return f"{items[0].count} {items[0].name} {day:%d.%m.} {turn.attempt} {json}"


def said(*parts: Part, **metadata: Any) -> Message:
    return Message(role=Role.USER, parts=parts, metadata=metadata)


def data(**members: Any) -> DataPart:
    return DataPart(members)


def agent(*functions: Callable[..., Any], **config: Any) -> Agent:
    return Agent.of({"name": "a", **config}, list(functions))


def refusal(result: Result) -> tuple[str, list[Json]]:
    assert result.state is TaskState.REJECTED
    assert result.status_message is not None
    _, told = result.status_message.parts
    assert isinstance(told, DataPart)
    return result.status, told.data["errors"]


# ---------------------------------------------------------------------- what the card says


def test_what_the_function_says_is_in_the_card() -> None:
    [told] = agent(forecast).skills
    assert (told.id, told.name, told.description) == (
        "forecast",
        "Forecast",
        "Tells the weather of the next days.",
    )
    assert (told.tags, told.examples, told.output_modes) == (
        ("sky",),
        ("Will it rain?",),
        ("application/json",),
    )
    assert told.input_schema is not None
    assert told.input_schema["required"] == ["city"]
    assert told.input_schema["additionalProperties"] is False
    properties = told.input_schema["properties"]
    assert properties["city"] == {"description": "Where", "minLength": 2, "title": "City", "type": "string"}
    assert (properties["days"]["type"], properties["days"]["default"]) == ("integer", 3)
    assert properties["unit"]["enum"] == ["C", "F"]


def test_what_it_does_not_say_has_a_default() -> None:
    @skill()
    def make_rain(turn: Turn) -> None:
        pass

    shouting, raining = agent(shout, make_rain).skills
    assert (shouting.id, shouting.name, shouting.tags) == ("shout", "shout", ("shout",))
    assert shouting.input_modes == ()  # the agent's: text or data
    assert (raining.id, raining.name, raining.description) == ("make_rain", "make rain", "make rain")
    assert raining.input_schema is None


def test_what_takes_no_text_says_so() -> None:
    [told] = agent(place_order).skills
    assert told.input_modes == ("application/json",)
    assert told.input_schema is not None
    assert set(told.input_schema["properties"]) == {"items", "day", "json"}
    assert "Item" in told.input_schema["$defs"]


def test_a_marked_function_is_still_a_function() -> None:
    assert shout("hello") == "HELLO"
    assert forecast("Lisbon")["days"] == 3


# ---------------------------------------------------------------------- which function


def test_the_only_skill_needs_no_name() -> None:
    assert run_sync(Agent.of({"name": "a"}, shout), "hello").text == "HELLO"


def test_a_message_names_its_skill() -> None:
    both = agent(shout, forecast)
    assert run_sync(both, said(TextPart("hello"), skillId="shout")).text == "HELLO"
    [artifact] = run_sync(both, said(data(city="Rome", days=1), skillId="forecast")).artifacts
    assert artifact.parts == (DataPart({"city": "Rome", "days": 1, "unit": "C"}),)


def test_who_names_none_is_asked_where_there_are_several() -> None:
    result = run_sync(agent(shout, forecast), "hello")
    assert result.state is TaskState.INPUT_REQUIRED
    assert result.status == "Which skill: shout, forecast? A message names it in its metadata, as skillId."


def test_a_skill_that_is_not_there_is_refused() -> None:
    for functions in ((shout,), (shout, forecast), (shout, lambda messages: "plain")):
        result = run_sync(agent(*functions), said(TextPart("hello"), skillId="rain"))
        assert result.state is TaskState.REJECTED
        assert "no skill rain; the agent has: shout" in result.status
    assert run_sync(agent(shout), said(TextPart("x"), skillId=7)).state is TaskState.REJECTED


def test_skills_of_the_extended_card_are_not_told_to_strangers() -> None:
    @skill(extended=True)
    def launch(text: str) -> str:
        return "launched"

    card = {"capabilities": {"extended_agent_card": True}, "extended_card": {}}
    both = agent(shout, launch, **card)
    for message in (said(TextPart("hello")), said(TextPart("hello"), skillId="rain")):
        assert "shout" in run_sync(both, message).status
        assert "launch" not in run_sync(both, message).status
    assert run_sync(both, said(TextPart("hello"), skillId="launch")).text == "launched"


def test_a_handler_takes_what_names_no_skill() -> None:
    both = agent(shout, lambda messages: "plain", skills=[{"id": "talk", "name": "talk"}])
    assert run_sync(both, "hello").text == "plain"
    assert run_sync(both, said(TextPart("hello"), skillId="talk")).text == "plain"
    assert run_sync(both, said(TextPart("hello"), skillId="shout")).text == "HELLO"


def test_an_agent_without_functions_gets_its_messages_as_they_are() -> None:
    assert run_sync(lambda messages: "plain", said(TextPart("hello"), skillId="whatever")).text == "plain"


def test_a_task_stays_with_its_skill() -> None:
    conversation = [said(data(city="Rome"), skillId="forecast"), said(data(city="Oslo"))]
    [artifact] = run_sync(agent(shout, forecast), conversation).artifacts
    assert artifact.parts == (DataPart({"city": "Oslo", "days": 3, "unit": "C"}),)
    other_task = Message(
        role=Role.USER, parts=(TextPart("x"),), task_id="another", metadata={"skillId": "shout"}
    )
    assert run_sync(agent(shout, forecast), [other_task, said(TextPart("y"))]).state == "input-required"


def test_who_is_asked_which_skill_may_answer_with_its_id_alone() -> None:
    both = agent(shout, forecast)
    assert run_sync(both, ["hello", " shout\n"]).text == "HELLO"
    assert run_sync(both, [said(data(city="Oslo")), "forecast"]).state is TaskState.COMPLETED
    assert run_sync(both, ["hello", "shout", "again"]).text == "AGAIN"
    for unclear in (["shout"], ["hello", "what?"], ["hello", "rain"]):
        assert run_sync(both, unclear).state is TaskState.INPUT_REQUIRED


def test_who_was_not_asked_which_skill_is_taken_at_his_word() -> None:
    plain = agent(shout, lambda messages: "plain")
    assert run_sync(plain, ["hello", "shout"]).text == "plain"
    assert run_sync(agent(shout), ["hello", "shout"]).text == "SHOUT"
    named = said(TextPart("hello"), skillId="shout")
    assert run_sync(agent(shout, forecast), [named, "forecast"]).text == "FORECAST"


# ---------------------------------------------------------------------- its arguments


def test_arguments_have_their_types() -> None:
    message = said(data(items=[{"name": "tea"}], day="2026-01-02"))
    assert run_sync(agent(place_order), message).text == "1 tea 02.01. 1 False"


def test_data_may_come_in_several_parts_or_as_text() -> None:
    parts = (data(items=[{"name": "tea", "count": 2}]), data(day="2026-01-02", json=True))
    assert run_sync(agent(place_order), said(*parts)).text == "2 tea 02.01. 1 True"
    text = '{"items": [{"name": "tea"}], "day": "2026-01-02"}'
    assert run_sync(agent(place_order), text).text == "1 tea 02.01. 1 False"


def test_text_is_the_parameter_that_takes_text() -> None:
    def given(*parts: Part) -> Any:
        [artifact] = run_sync(agent(forecast), said(*parts)).artifacts
        [part] = artifact.parts
        assert isinstance(part, DataPart)
        return part.data

    assert given(TextPart("Rome")) == {"city": "Rome", "days": 3, "unit": "C"}
    assert given(TextPart("Rome"), data(days=9)) == {"city": "Rome", "days": 9, "unit": "C"}
    assert given(TextPart("Which weather?"), data(city="Oslo"))["city"] == "Oslo"
    assert run_sync(agent(shout), '{"text": "x"}').text == '{"TEXT": "X"}'  # text is text


async def test_every_kind_of_function_can_be_a_skill() -> None:
    @skill
    def plain(text) -> str:  # type: ignore[no-untyped-def] # as authors write
        return f"{text}!"

    @skill
    async def waits(text: str) -> str:
        return f"{text}!"

    @skill
    def yields(text: str) -> Iterator[str]:
        yield text
        yield "!"

    @skill
    async def streams(text: str, messages: list[Json]) -> AsyncIterator[str]:
        yield messages[-1]["content"]
        yield "!"

    class Bot:
        @skill
        async def method(self, text: str = "") -> str:
            return f"{text}!"

    @skill
    @functools.wraps(waits)
    async def wrapped(*args: Any, **kwargs: Any) -> str:
        return await waits(*args, **kwargs)

    kinds: list[Callable[..., Any]] = [plain, waits, yields, streams, Bot().method, wrapped]
    for each in kinds:
        result = await run(agent(each), "hello")
        assert (result.state, result.text) == (TaskState.COMPLETED, "hello!")
    assert (await run(agent(yields), "hello")).chunks == ("hello", "!")


# ---------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (data(), {"city": "is required"}),
        (data(city="Rome", days="many"), {"days": "valid integer"}),
        (data(city="R"), {"city": "at least 2 characters"}),
        (data(city="Rome", unit="K"), {"unit": "'C' or 'F'"}),
        (data(town="Rome"), {"city": "is required", "town": "there is no such field"}),
        (DataPart(["Rome"]), {"": "takes an object: city, days (may be left out)"}),
    ],
)
def test_what_is_wrong_is_told_by_field(part: Part, fields: dict[str, str]) -> None:
    text, errors = refusal(run_sync(agent(forecast), said(part)))
    assert {error["field"] for error in errors} == set(fields)
    for error in errors:
        assert fields[error["field"]] in error["description"]
        assert error["description"] in text
    assert text.startswith("forecast ")


def test_fields_within_fields_have_a_path() -> None:
    part = data(items=[{"name": "tea", "count": 0}, {}], day="2026-01-02")
    _, errors = refusal(run_sync(agent(place_order), said(part)))
    assert [error["field"] for error in errors] == ["items.0.count", "items.1.name"]


def test_one_parameter_that_is_no_text_takes_data() -> None:
    @skill
    def double(number: int) -> str:
        return str(number * 2)

    assert run_sync(agent(double), '{"number": 21}').text == "42"
    told, _ = refusal(run_sync(agent(double), "21"))
    assert "takes data, not text: number" in told


def test_text_for_what_takes_data_is_told_what_to_send() -> None:
    for text in ("tea, please", "[1]", "{", "[" * 100_000):
        told, _ = refusal(run_sync(agent(place_order), text))
        assert "takes data, not text: " in told
        assert "items" in told


def test_several_parts_that_are_no_objects_cannot_be_put_together() -> None:
    told, _ = refusal(run_sync(agent(place_order), said(data(day="x"), DataPart(1))))
    assert "each must be an object" in told


def test_a_thousand_errors_are_not_told() -> None:
    _, errors = refusal(run_sync(agent(place_order), said(data(items=[{}] * 1000))))
    assert len(errors) == 10


def test_an_error_of_the_function_is_no_wrong_input() -> None:
    @skill
    def breaks(text: str) -> str:
        raise ValueError(f"secret {text}")

    result = run_sync(agent(breaks), "hello")
    assert result.state is TaskState.FAILED
    assert "secret" not in result.status


# ---------------------------------------------------------------------- what does not start


def unreadable(thing: Missing) -> None:  # type: ignore[name-defined] # noqa: F821 - that is what is tested
    pass


def starred(*things: str) -> None:
    pass


def named(**things: str) -> None:
    pass


def positional(thing: str, /) -> None:
    pass


def of_no_schema(thing: Callable[[], None]) -> None:
    pass


class Plain:
    pass


def of_no_type(thing: Plain) -> None:
    pass


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (unreadable, "the skill unreadable: its parameters cannot be read: name 'Missing'"),
        (starred, r"\*things: 'str' cannot be given by name|\*things"),
        (named, r"\*\*things"),
        (positional, "cannot be given by name"),
        (of_no_schema, "make no JSON schema"),
        (of_no_type, "make no JSON schema"),
    ],
)
def test_a_function_that_data_cannot_be_given_to_does_not_start(func: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        agent(skill(func))
    assert "\n" not in str(refused.value)


def test_defaults_that_are_no_json_are_no_error() -> None:
    @skill
    def odd(thing: str = "", when: Any = Plain, many: list[str] = ["a"]) -> str:  # noqa: B006 - authors do
        return f"{when.__name__} {many}"

    assert run_sync(agent(odd), said(data())).text == "Plain ['a']"


@pytest.mark.parametrize(
    ("functions", "config", "why"),
    [
        ([], {}, "needs a handler"),
        ([print, len], {}, "one handler"),
        ([1], {}, "must be a function, not int"),
        ([shout, shout], {}, "two skills have the id shout"),
        ([shout, print], {"skills": ["shout"]}, "two skills have the id shout"),
        ([shout], {"skills": ["talk"]}, "nothing does the skill talk"),
        ([skill(extended=True)(lambda text: text)], {}, "only in the extended card"),
    ],
)
def test_functions_that_make_no_agent_do_not_start(functions: list[Any], config: Json, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        agent(*functions, **config)


def test_a_function_with_other_parameters_is_told_to_be_a_skill() -> None:
    with pytest.raises(ConfigError, match="mark it with @skill"):
        Agent.of({"name": "a"}, lambda city, days, unit: "")


@pytest.mark.parametrize(("module", "given"), [("one_shouts", "shout"), ("two_shouts", "[shout]")])
def test_an_agent_of_skills_is_found_by_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, given: str
) -> None:
    text = "from perdure import bindufy, skill\n@skill\ndef shout(text: str): return text.upper()\n"
    (tmp_path / f"{module}.py").write_text(f"{text}bindufy({{'name': 'a'}}, {given})")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time it has been imported before
        assert run_sync(load_agent(module), "hello").text == "HELLO"
    assert run_sync(load_agent(f"{module}.py"), "hello").text == "HELLO"
