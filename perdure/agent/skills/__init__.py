"""Skills, as the agent card lists them (A2A 1.0, section 4.4.5).

A skill in a config is a name, a folder with a `skill.yaml` or a `SKILL.md` (its front matter), or the members themselves.
One that has no file is still a skill with that name. Functions that are skills: `perdure.agent.skills.functions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.agent.skills.schemas import checked_schema
from perdure.errors import ConfigError

_FILES = ("skill.yaml", "skill.yml", "SKILL.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One thing that an agent can do."""

    id: str
    name: str
    description: str
    tags: Sequence[str]
    examples: Sequence[str] = ()
    input_modes: Sequence[str] = ()
    output_modes: Sequence[str] = ()
    input_schema: Mapping[str, Any] | None = None
    """The JSON schema of its data; None where it takes any."""


def read_skill(skill: str | Mapping[str, Any], folder: Path) -> Skill:
    """The skill that stands in a config. Relative folders start at `folder`. `ConfigError` for a file that cannot be read, and
    for a schema that is none."""
    if not isinstance(skill, str):
        return _skill(skill, str(skill.get("id") or skill.get("name") or ""), "the config")
    place = folder / skill
    name = Path(skill).name
    for file in (place / file for file in _FILES):
        if file.is_file():
            return _skill(_members(file), name, str(file))
    return _skill({}, name, "the config")


def _skill(members: Mapping[str, Any], default_name: str, source: str) -> Skill:
    name = str(members.get("name") or default_name)
    if not name:
        raise ConfigError(f"a skill in {source} has no name")
    schema = _member(members, "input_schema", "inputSchema")
    return Skill(
        id=str(members.get("id") or default_name),
        name=name,
        description=str(members.get("description") or name).strip(),
        tags=texts_of(members.get("tags")) or (default_name,),
        examples=texts_of(members.get("examples")),
        input_modes=texts_of(_member(members, "input_modes", "inputModes")),
        output_modes=texts_of(_member(members, "output_modes", "outputModes")),
        input_schema=None if schema is None else checked_schema(schema, f"the skill {name} in {source}"),
    )


def _member(members: Mapping[str, Any], name: str, in_a_card: str) -> Any:
    """A member as configs call it, or as it stands in cards, from which many are copied."""
    return members.get(name, members.get(in_a_card))


def texts_of(value: Any) -> tuple[str, ...]:
    """One text, or several."""
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def _members(file: Path) -> Mapping[str, Any]:
    import yaml  # here, since most agents have no skill files

    try:
        text = file.read_text(encoding="utf-8")
        parsed = yaml.safe_load(_front_matter(text) if file.suffix == ".md" else text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the skill file {file} cannot be read: {' '.join(str(error).split())}") from None
    if parsed is not None and not isinstance(parsed, Mapping):
        raise ConfigError(f"the skill file {file} must hold members such as name and description")
    return parsed or {}


def _front_matter(text: str) -> str:
    """What stands between the two `---` lines at the head of a Markdown file."""
    _, _, rest = text.partition("---\n") if text.startswith("---\n") else ("", "", "")
    return rest.partition("\n---")[0]
