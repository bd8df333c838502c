"""Functions that are skills: `@skill` marks them, their parameters are the schema of what they take, and a message's data becomes
their arguments.

    @skill(tags=["sky"], examples=["Will it rain in Lisbon?"])
    def forecast(city: str, days: int = 3) -> str:
        \"\"\"Tells the weather of the next days.\"\"\"
        return f"{city}: sun, for {days} days"

    agent = bindufy({"name": "weather"}, forecast)
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, overload

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from perdure.agent.callables import UNBOUND
from perdure.agent.skills import Skill, texts_of
from perdure.agent.skills.schemas import MOST, Misfit
from perdure.errors import ConfigError
from perdure.tasks import DataPart, Message

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__perdure_skill__"
OURS = ("messages", "turn")
"""Parameters of these names are given the conversation and the turn, as a handler's are. Callers do not see them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What `@skill` was told. What is empty comes from the function."""

    id: str = ""
    name: str = ""
    description: str = ""
    tags: Sequence[str] = ()
    examples: Sequence[str] = ()
    input_modes: Sequence[str] = ()
    output_modes: Sequence[str] = ()
    extended: bool = False


@overload
def skill(func: F, /) -> F: ...
@overload
def skill(
    *,
    id: str = "",
    name: str = "",
    description: str = "",
    tags: str | Sequence[str] = (),
    examples: str | Sequence[str] = (),
    input_modes: str | Sequence[str] = (),
    output_modes: str | Sequence[str] = (),
    extended: bool = False,
) -> Callable[[F], F]: ...
def skill(
    func: Any = None,
    /,
    *,
    id: str = "",  # noqa: A002 - the same
    name: str = "",
    description: str = "",
    tags: str | Sequence[str] = (),
    examples: str | Sequence[str] = (),
    input_modes: str | Sequence[str] = (),
    output_modes: str | Sequence[str] = (),
    extended: bool = False,
) -> Any:
    """Mark a function, of any of the kinds that handlers may be, as a skill of the agent that it is given to.

    `id` is the function's name by default, `name` that with spaces, `description` the first paragraph of the docstring, `tags`
    the id. `examples` are texts; `input_modes` and `output_modes` are media types, those of the agent by default. With `extended`
    the skill is shown in the extended card alone. The function itself is not changed: call it as before.
    """
    members = Marked(
        id=id,
        name=name,
        description=description,
        tags=texts_of(tags),
        examples=texts_of(examples),
        input_modes=texts_of(input_modes),
        output_modes=texts_of(output_modes),
        extended=extended,
    )

    def mark(marked: F) -> F:
        setattr(marked, _MARK, members)
        return marked

    return mark if func is None else mark(func)


def is_skill(func: Any) -> bool:
    """Whether it was marked."""
    return isinstance(getattr(func, _MARK, None), Marked)


# ---------------------------------------------------------------------- a function and what it takes


class BadInput(Exception):
    """What a message brought is not what the skill takes."""

    def __init__(self, misfits: Sequence[Misfit]) -> None:
        super().__init__("; ".join(map(str, misfits)))
        self.misfits = misfits


@dataclass(frozen=True, slots=True)
class SkillFunction:
    """A function, the skill that it is in the card, and how a message becomes its arguments."""

    func: Callable[..., Any]
    skill: Skill
    extended: bool
    given: frozenset[str]
    """Which of `OURS` it takes."""
    inputs: TypeAdapter[Any] | None
    """Makes an object with its arguments of data; None where it takes none."""
    text: str = ""
    """The parameter that is given a message's text, if there is one."""

    def arguments(self, message: Message) -> dict[str, Any]:
        """`BadInput` says what is wrong with the message."""
        if self.inputs is None:
            return {}
        try:
            made = self.inputs.validate_python(self._data(message))
        except ValidationError as error:
            raise BadInput(_misfits(error)) from None
        return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}

    def _data(self, message: Message) -> Any:
        text = message.text
        data = data_in(message)
        if data is None and not self.text and text.strip():
            data = _parsed(text)
            if data is None:
                raise BadInput([Misfit("", f"{self.skill.id} takes data, not text: {self._names()}")])
        if data is None:
            data = {}
        if not isinstance(data, Mapping):
            raise BadInput([Misfit("", f"{self.skill.id} takes an object: {self._names()}")])
        return {**({self.text: text} if self.text and text else {}), **data}

    def _names(self) -> str:
        properties = (self.skill.input_schema or {}).get("properties", {})
        needed = (self.skill.input_schema or {}).get("required", ())
        return ", ".join(name if name in needed else f"{name} (may be left out)" for name in properties)


def data_in(message: Message) -> Any:
    """The data of a message: that of its data part; of several, all members together. None for a message without."""
    found = [part.data for part in message.parts if isinstance(part, DataPart)]
    if len(found) < 2:
        return found[0] if found else None
    if not all(isinstance(data, Mapping) for data in found):
        raise BadInput([Misfit("", "of several data parts each must be an object")])
    return {name: value for data in found for name, value in data.items()}


def _parsed(text: str) -> Any:
    """Data that came as text; None if it is none. Many clients can send nothing else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_WORDS = {"unexpected_keyword_argument": "there is no such field", "missing": "is required"}


def _misfits(error: ValidationError) -> list[Misfit]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        Misfit(".".join(map(str, each["loc"])), _WORDS.get(each["type"], each["msg"]))
        for each in found[:MOST]
    ]


# ---------------------------------------------------------------------- reading a signature


def read_function(func: Callable[..., Any]) -> SkillFunction:
    """A marked function as a skill. `ConfigError` for parameters that data cannot be made of."""
    members: Marked = getattr(func, _MARK)
    name = getattr(func, "__name__", type(func).__name__)
    place = f"the skill {members.id or name}"
    parameters = _parameters(func, place)
    taken = {each.name: each for each in parameters if each.name not in OURS}
    text = _text_parameter(list(taken.values()))
    inputs, schema = _inputs(name, taken.values(), place) if taken else (None, None)
    identity = members.id or name
    modes = members.input_modes or (("application/json",) if taken and not text else ())
    return SkillFunction(
        func=func,
        skill=Skill(
            id=identity,
            name=members.name or identity.replace("_", " "),
            description=members.description or _first_paragraph(func) or identity.replace("_", " "),
            tags=members.tags or (identity,),
            examples=members.examples,
            input_modes=modes,
            output_modes=members.output_modes,
            input_schema=schema,
        ),
        extended=members.extended,
        given=frozenset(each.name for each in parameters) & frozenset(OURS),
        inputs=inputs,
        text=text,
    )


def _parameters(func: Callable[..., Any], place: str) -> list[inspect.Parameter]:
    try:
        found = list(inspect.signature(func, eval_str=True).parameters.values())
    except (NameError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: its parameters cannot be read: {error}") from None
    if found and found[0].name == "self":
        raise ConfigError(f"{place}: {UNBOUND}")
    for each in found:
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ConfigError(f"{place}: {each} cannot be given by name, as data is")
    return found


def _text_parameter(taken: Sequence[inspect.Parameter]) -> str:
    """The only one that is needed, or the only one, where it takes text."""
    needed = [each for each in taken if each.default is each.empty] or taken
    if len(needed) != 1:
        return ""
    hint = needed[0].annotation
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return needed[0].name if hint in (str, inspect.Parameter.empty, Any) else ""


class _Quiet(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it


def _inputs(name: str, taken: Any, place: str) -> tuple[TypeAdapter[Any], Mapping[str, Any]]:
    """The parameters as the fields of a dataclass: it may have any names, and keeps values as their types made them."""
    fields = [
        (
            each.name,
            Any if each.annotation is each.empty else each.annotation,
            dataclasses.field() if each.default is each.empty else _default(each.default),
        )
        for each in taken
    ]
    namespace = {"__pydantic_config__": ConfigDict(extra="forbid", arbitrary_types_allowed=False)}
    try:
        made = dataclasses.make_dataclass(name, fields, kw_only=True, namespace=namespace)
        made.__doc__ = None  # dataclasses writes one, which would be the schema's description
        adapter = TypeAdapter[Any](made)
        schema = adapter.json_schema(schema_generator=_Quiet)
    except (PydanticUserError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: its parameters make no JSON schema: {_first_line(error)}") from None
    return adapter, {member: value for member, value in schema.items() if member != "title"}


def _default(value: Any) -> Any:
    if getattr(type(value), "__hash__", None) is None:
        return dataclasses.field(default_factory=lambda: value)
    return dataclasses.field(default=value)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _first_paragraph(func: Callable[..., Any]) -> str:
    """Of its own docstring, not that of its class."""
    return " ".join((inspect.getdoc(func) or "").partition("\n\n")[0].split())
