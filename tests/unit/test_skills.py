"""Skills in a config: names, folders with a file, members; and what is said of a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Agent, DataPart, Message, TextPart
from perdure.agent.loader import load_agent
from perdure.agent.skills import read_skill
from perdure.errors import ConfigError
from perdure.tasks import Part, Role
from perdure.testing import Result, run_sync


def test_a_name_without_a_file_is_a_skill(tmp_path: Path) -> None:
    skill = read_skill("skills/question-answering", tmp_path)
    assert (skill.id, skill.name, skill.tags) == ("question-answering",) * 2 + (("question-answering",),)
    assert skill.description


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("skill.yaml", "name: Answers\ndescription: Answers questions\ntags: [qa, text]\nexamples: Why?\n"),
        (
            "SKILL.md",
            "---\nname: Answers\ndescription: Answers questions\ntags: [qa, text]\nexamples: Why?\n---\n# More\n",
        ),
    ],
)
def test_a_folder_with_a_file(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / file).write_text(text)
    skill = read_skill("answers", tmp_path)
    assert (skill.id, skill.name, skill.description) == ("answers", "Answers", "Answers questions")
    assert (skill.tags, skill.examples) == (("qa", "text"), ("Why?",))


def test_members(tmp_path: Path) -> None:
    skill = read_skill({"id": "qa", "name": "Answers", "tags": ["text"]}, tmp_path)
    assert (skill.id, skill.name, skill.tags) == ("qa", "Answers", ("text",))


def test_members_that_were_copied_from_a_card(tmp_path: Path) -> None:
    skill = read_skill({"name": "qa", "inputModes": ["image/png"], "outputModes": "text/csv"}, tmp_path)
    assert (skill.input_modes, skill.output_modes) == (("image/png",), ("text/csv",))


@pytest.mark.parametrize("text", ["tags: [qa", "just a text", "\x00"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "skill.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"skill\.yaml") as error:
        read_skill(".", tmp_path)
    assert "\n" not in str(error.value)


SCHEMA = """
input_schema:
  type: object
  required: [city]
  properties:
    city: {$ref: '#/$defs/place'}
    days: {type: integer, minimum: 1}
  additionalProperties: false
  $defs:
    place: {type: string, minLength: 2}
"""


@pytest.mark.parametrize("file", ["skill.yaml", "SKILL.md"])
def test_a_file_may_say_what_the_skill_takes(tmp_path: Path, file: str) -> None:
    text = f"name: Forecast{SCHEMA}".replace(
        "input_schema", "inputSchema" if file == "SKILL.md" else "input_schema"
    )
    (tmp_path / file).write_text(f"---\n{text}---\n# More\n" if file == "SKILL.md" else text)
    schema = read_skill(".", tmp_path).input_schema
    assert schema is not None
    assert schema["properties"]["days"] == {"type": "integer", "minimum": 1}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("text", "must be a JSON schema"),
        ({"type": "thing"}, r"input_schema\.type: 'thing' is not valid"),
        (
            {"properties": {"a": {"minimum": "1"}}},
            r"input_schema\.properties\.a\.minimum: '1' is not of type",
        ),
        (
            {"properties": {"a": {"$ref": "https://a.test/a.json"}}},
            "refers to https://a.test/a.json, which is not in",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, r"refers to #/\$defs/a, which is not in it"),
        ({"default": object()}, "is no JSON"),
        ({"minimum": float("nan")}, "is no JSON"),
    ],
)
def test_a_schema_that_is_none_is_one_line(tmp_path: Path, schema: object, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        read_skill({"name": "forecast", "input_schema": schema}, tmp_path)
    assert str(error.value).startswith("the skill forecast in the config: ")
    assert "\n" not in str(error.value)


def test_data_for_a_skill_with_a_schema_is_held_to_it(tmp_path: Path) -> None:
    (tmp_path / "skill.yaml").write_text(f"name: forecast\nid: forecast{SCHEMA}")
    agent = Agent.of({"name": "a", "skills": ["."]}, lambda messages: "sunny", folder=tmp_path)

    def said(*parts: Part, skill: str = "forecast") -> Result:
        return run_sync(agent, Message(role=Role.USER, parts=parts, metadata={"skillId": skill}))

    assert said(DataPart({"city": "Rome"})).text == "sunny"
    assert said(TextPart("Rome?")).text == "sunny"
    assert said(DataPart({"city": 1}), skill="other").text == "sunny"
    refused = said(DataPart({"city": "R", "days": 0, "town": "x"}))
    assert refused.state == "rejected"
    assert "city: 'R' is too short" in refused.status
    assert "days: 0 is less than the minimum of 1" in refused.status
    assert "'town' was unexpected" in refused.status
    long = said(DataPart({"city": ["x" * 10_000]}))
    assert len(long.status) < 400
    assert said(DataPart([1])).state == "rejected"


def test_members_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no name"):
        read_skill({"description": "something"}, tmp_path)


def test_folders_are_looked_for_beside_the_agents_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "answers").mkdir(parents=True)
    (tmp_path / "here" / "answers" / "skill.yaml").write_text("name: Found")
    agent = tmp_path / "here" / "my_agent.py"
    agent.write_text(
        "from perdure import bindufy\nbindufy({'name': 'a', 'skills': ['answers']}, lambda messages: '')"
    )
    monkeypatch.chdir(tmp_path)
    loaded: Agent = load_agent(str(agent))
    assert [skill.name for skill in loaded.skills] == ["Found"]
