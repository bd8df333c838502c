"""Skills in a config: names, folders with a file, members; and what is said of a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Agent
from perdure.errors import ConfigError
from perdure.loader import load_agent
from perdure.skills import read_skill


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


@pytest.mark.parametrize("text", ["tags: [qa", "just a text", "\x00"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "skill.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"skill\.yaml") as error:
        read_skill(".", tmp_path)
    assert "\n" not in str(error.value)


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
