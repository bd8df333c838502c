"""Which function of an agent a turn is for: the skill that the caller names, the only one there is, or the handler.

A caller names a skill by its id in the message's metadata, as `skillId` (docs/skill-inputs.md). A task stays with its skill until
a message to it names another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from perdure.agent import Agent, Turn
from perdure.agent.callables import Kind, kind_of
from perdure.agent.skills import Skill
from perdure.agent.skills.functions import BadInput, SkillFunction, data_in
from perdure.agent.skills.schemas import LONGEST, Misfit, misfits
from perdure.errors import InputRequired, Rejected, TurnOutcome
from perdure.notes import SKILL_ID
from perdure.tasks import DataPart, Message, Role, TextPart


def call_for(agent: Agent, turn: Turn, messages: Sequence[dict[str, str]]) -> tuple[Callable[[], Any], Kind]:
    """What to call for a turn, and what kind of function it is. Raises the end of the turn where the message is for no skill, or
    is not what its skill takes: `InputRequired`, `Rejected`."""
    named, message = _asked(agent, turn) if _has_choice(agent) else ("", turn.message)
    if not named and agent.handler is None and len(agent.functions) == 1:
        [named] = agent.functions
    try:
        if named in agent.functions:
            function = agent.functions[named]
            return _skill_call(function, turn, message, messages), kind_of(function.func)
        if agent.handler is None or (named and agent.functions and named not in _skills(agent)):
            raise _unknown(agent, named)
        _check_data(agent, named, message)
    except BadInput as error:
        raise Rejected(_told(named, error.misfits)) from None
    given = (messages, turn) if agent.takes_turn else (messages,)
    return partial(agent.handler, *given), agent.kind


def _skill_call(
    function: SkillFunction, turn: Turn, message: Message, messages: Sequence[dict[str, str]]
) -> Callable[[], Any]:
    ours = {"messages": messages, "turn": turn}
    given = {name: value for name, value in ours.items() if name in function.given}
    return partial(function.func, **function.arguments(message), **given)


def _has_choice(agent: Agent) -> bool:
    """Whether it matters what a message names."""
    return bool(agent.functions) or any(skill.input_schema for skill in _skills(agent).values())


def _asked(agent: Agent, turn: Turn) -> tuple[str, Message]:
    """The skill that the newest message of this task to name one names, empty for none; and the message with what it takes.

    Whoever was asked which skill may answer with its id alone: then what he said before is meant for it.
    """
    said = [each for each in turn.messages if each.role is Role.USER and each.task_id in ("", turn.task_id)]
    named, meant = "", turn.message
    may_be_asked = agent.handler is None and len(agent.functions) > 1
    for before, message in zip([None, *said], said, strict=False):
        meant = message
        if SKILL_ID in message.metadata:
            named = str(message.metadata[SKILL_ID])
        elif may_be_asked and not named and before and message.text.strip() in agent.functions:
            named, meant = message.text.strip(), before
    return named, meant


def _skills(agent: Agent) -> Mapping[str, Skill]:
    return {skill.id: skill for skill in (*agent.skills, *agent.extended_skills)}


def _unknown(agent: Agent, named: str) -> TurnOutcome:
    """What is said of a skill that there is not, or that nobody named. Those of the extended card are not told to everybody."""
    known = ", ".join(skill.id for skill in agent.skills)
    if named:
        return Rejected(f"there is no skill {named[:LONGEST]}; the agent has: {known}")
    return InputRequired(f"Which skill: {known}? A message names it in its metadata, as {SKILL_ID}.")


def _check_data(agent: Agent, named: str, message: Message) -> None:
    """What is for the handler, by the schema of the skill's file. `BadInput`."""
    skill = _skills(agent).get(named)
    if skill is None or skill.input_schema is None:
        return
    data = data_in(message)
    if data is not None and (found := misfits(data, skill.input_schema)):
        raise BadInput(found)


def _told(named: str, misfits: Sequence[Misfit]) -> Message:
    """For people, and for programs."""
    text = f"{named} cannot do it: {'; '.join(map(str, misfits))}"
    errors = [{"field": misfit.field, "description": misfit.description} for misfit in misfits]
    return Message(parts=(TextPart(text), DataPart({"skillId": named, "errors": errors})))
