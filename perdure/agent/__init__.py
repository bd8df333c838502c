"""An agent is a config and a function.

`bindufy(config, handler)` checks both and gives the `Agent`; run as a script it serves it as well. A handler may be

- a plain function (runs in a thread of its own), a coroutine function, a generator or an async generator (each yield is a
  streamed chunk of the answer's artifact),
- and takes `messages`, or `messages, turn`: the conversation as `{"role": "user"|"assistant", "content": str}`, oldest first,
  and a `Turn`.

It returns (or a generator yields) str, dict or list (a data part), Part, Message, Artifact, a list of Artifacts, or None; it ends
its turn otherwise by raising or returning `InputRequired`, `AuthRequired`, `Rejected` or `AgentError`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pydantic import HttpUrl, ValidationError

from perdure.agent.callables import Handler, Kind, kind_of, takes_turn
from perdure.agent.config import (
    AgentConfig,
    Capabilities,
    Deployment,
    ExtendedCard,
    Extension,
    Limit,
    ListedSkill,
    Provider,
)
from perdure.agent.config_errors import readable
from perdure.agent.skills import Skill, read_skill
from perdure.agent.skills.functions import SkillFunction, is_skill, read_function
from perdure.agent.turn import Emission, Progress, Turn
from perdure.errors import ConfigError

__all__ = [
    "Agent",
    "AgentConfig",
    "Capabilities",
    "Deployment",
    "Emission",
    "ExtendedCard",
    "Extension",
    "Limit",
    "ListedSkill",
    "Progress",
    "Provider",
    "Turn",
    "bindufy",
    "declared",
]


@dataclass(frozen=True, slots=True)
class Agent:
    """A checked config and handler. `ConfigError` says in one line what is wrong."""

    config: AgentConfig
    handler: Handler | None
    """None where every message is for a skill."""
    skills: Sequence[Skill]
    kind: Kind
    """Of the handler, else of its first skill."""
    takes_turn: bool
    extended_skills: Sequence[Skill] = ()
    """Those of the extended card alone."""
    functions: Mapping[str, SkillFunction] = field(default_factory=dict)
    """The functions that are skills, by the skill's id."""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any] | AgentConfig,
        handler: Handler | Sequence[Handler],
        *,
        folder: Path | None = None,
    ) -> Agent:
        """Check both. Relative skill folders are looked for in `folder` (default: the working directory)."""
        checked = _checked(config)
        plain, functions = _sorted(handler)
        shown = [read_skill(skill, folder or Path.cwd()) for skill in checked.skills]
        more = [
            read_skill(skill, folder or Path.cwd())
            for skill in (checked.extended_card.skills if checked.extended_card else ())
        ]
        _require_ids_of_their_own([*shown, *more], functions)
        _require_extended_card(checked, functions)
        if plain is None and (shown or more):
            raise ConfigError(
                f"nothing does the skill {(shown or more)[0].id}: give the agent a handler beside its skills"
            )
        return cls(
            config=checked,
            handler=plain,
            skills=(*shown, *(each.skill for each in functions if not each.extended)),
            kind=kind_of(functions[0].func if plain is None else plain),
            takes_turn=plain is not None and takes_turn(plain),
            extended_skills=(*more, *(each.skill for each in functions if each.extended)),
            functions={each.skill.id: each for each in functions},
        )

    def served_at(self, url: str) -> Agent:
        """The agent with this address in its card, unless its config says one. `ConfigError` where it is none."""
        if "url" in self.config.deployment.model_fields_set:
            return self
        try:
            return self.moved_to(url)
        except ValidationError:
            raise ConfigError(
                f"HOST makes {url}, which is no address for the card: set deployment.url"
            ) from None

    def moved_to(self, url: str) -> Agent:
        """The agent with this address in its card. `ValidationError` where it is none."""
        found = self.config.deployment.model_copy(update={"url": HttpUrl(url)})
        return replace(self, config=self.config.model_copy(update={"deployment": found}))


declared: list[Agent] = []
"""Every agent that `bindufy` made in this process, in order: how a loader finds one whose result was not assigned."""


def bindufy(config: Mapping[str, Any], handler: Handler | Sequence[Handler]) -> Agent:
    """Make an agent of a config and a function, or of several that are marked with `skill`; among those one may be a plain
    handler, for messages that name none of them.

    In a script that is run (`python my_agent.py`) this serves the agent and returns when the server ends. In a file that is
    loaded (`perdure serve my_agent.py`, `import my_agent`) it returns the agent at once.
    A wrong config or handler ends a script with one line and exit code 2; a loader gets `ConfigError`.
    """
    caller = sys._getframe(1).f_globals
    as_script = caller.get("__name__") == "__main__"
    try:
        file = caller.get("__file__")
        agent = Agent.of(config, handler, folder=Path(file).resolve().parent if file else None)
        declared.append(agent)
        if as_script:
            from perdure.launch import serve  # only a script pays for the server's imports

            serve(agent)
    except ConfigError as error:
        if not as_script:
            raise
        print(f"perdure: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return agent


def _sorted(handler: Handler | Sequence[Handler]) -> tuple[Handler | None, list[SkillFunction]]:
    """The plain handler and the skills among what an agent was given."""
    given = list(handler) if isinstance(handler, list | tuple) else [cast("Handler", handler)]
    for each in given:
        kind_of(each)  # a function, whatever else is wrong with it
    plain = [each for each in given if not is_skill(each)]
    if len(plain) > 1:
        raise ConfigError("an agent has one handler; mark its other functions with @skill")
    if not given:
        raise ConfigError("an agent needs a handler, or a function that is marked with @skill")
    return (plain[0] if plain else None), [read_function(each) for each in given if is_skill(each)]


def _require_ids_of_their_own(skills: Sequence[Skill], functions: Sequence[SkillFunction]) -> None:
    known = set()
    for each in (*skills, *(function.skill for function in functions)):
        if each.id in known:
            raise ConfigError(f"two skills have the id {each.id}: give one another, by `id`")
        known.add(each.id)


def _require_extended_card(config: AgentConfig, functions: Sequence[SkillFunction]) -> None:
    for each in functions:
        if each.extended and config.extended_card is None:
            raise ConfigError(
                f"the skill {each.skill.id} is shown only in the extended card, and there is none: "
                "it needs extended_card and capabilities.extended_agent_card: true"
            )


def _checked(config: Mapping[str, Any] | AgentConfig) -> AgentConfig:
    if isinstance(config, AgentConfig):
        return config
    if not isinstance(config, Mapping):
        raise ConfigError(f"the agent's config must be a dict, not {type(config).__name__}")
    try:
        return AgentConfig.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(f"the agent's config is wrong: {readable(error, AgentConfig)}") from None
