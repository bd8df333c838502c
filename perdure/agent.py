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

import functools
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, Self, TypeVar, cast, overload

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from perdure.callables import Handler, Kind, kind_of, takes_turn
from perdure.config_errors import readable
from perdure.errors import ConfigError, LeaseLost
from perdure.notes import ACCEPTED_OUTPUT_MODES, EXTENSIONS, REPLY, TENANT, text_in, texts_in
from perdure.output import parts_in
from perdure.security import SecurityRequirement, SecurityScheme
from perdure.skill_functions import SkillFunction, is_skill, read_function
from perdure.skills import Skill, read_skill
from perdure.steps import Steps
from perdure.tasks import Artifact, ArtifactChunk, Message, Part, Task

P = ParamSpec("P")
T = TypeVar("T")


def _listed(skill: Any) -> Any:
    if not isinstance(skill, str | Mapping):
        raise ValueError("must be a name, a folder or a dict; functions are given in the handler's place")
    return skill


ListedSkill = Annotated[str | Mapping[str, Any], BeforeValidator(_listed)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deployment(_Config):
    """Where callers reach the agent. `url` is its public address, as it stands in the card; where it is not given, the card
    has the address that is listened on.

    `expose` is read for configs written for Bindu and opens nothing: HOST alone decides who can connect.
    """

    url: HttpUrl = HttpUrl("http://localhost:3773")
    expose: bool = False


class Provider(_Config):
    """Who offers the agent."""

    organization: str
    url: str


class Extension(_Config):
    """An A2A extension that the agent speaks (1.0, section 4.6). A request that does not name a `required` one is refused."""

    uri: str = Field(min_length=1, max_length=2048, pattern=r"^[^\s,]+$")
    """Stands in comma-separated headers."""
    description: str = ""
    required: bool = False
    params: Mapping[str, Any] = Field(default_factory=dict)


class Capabilities(_Config):
    """What of A2A's optional parts callers may use (1.0, section 4.4.3)."""

    streaming: bool = True
    push_notifications: bool = False
    extended_agent_card: bool = False
    extensions: Sequence[Extension] = ()


class ExtendedCard(_Config):
    """What authenticated callers see in the card besides (1.0, section 3.1.11): more skills, another description."""

    description: str = ""
    documentation_url: str = ""
    skills: Sequence[ListedSkill] = ()
    extensions: Sequence[Extension] = ()


class Limit(_Config):
    """At most `max_running` turns at once: of the whole agent, or (`per`) of each value of a member of the metadata."""

    max_running: int = Field(ge=1, le=1_000_000)
    per: str | None = Field(default=None, pattern=r"^metadata(\.[^.\x00]+)+$")
    """A path as `metadata.tenant`, in the metadata of the message, else of the request. Tasks without that member are not limited
    by it."""


class AgentConfig(_Config):
    """The config of an agent. Only `name` must be given; unknown members are an error, since they are typing errors."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    author: str = ""
    description: str = ""
    version: str = "1.0.0"
    deployment: Deployment = Deployment()
    skills: Sequence[ListedSkill] = ()
    capabilities: Capabilities = Capabilities()
    default_input_modes: Sequence[str] = ("text/plain", "application/json")
    default_output_modes: Sequence[str] = ("text/plain", "application/json")
    provider: Provider | None = None
    documentation_url: str = ""
    icon_url: str = ""
    security_schemes: Mapping[str, SecurityScheme] = Field(default_factory=dict)
    security: Sequence[SecurityRequirement] = ()
    """What callers must satisfy one of."""
    extended_card: ExtendedCard | None = None
    conversation_policy: Literal["enqueue", "reject", "interrupt", "parallel"] = "enqueue"
    """What a new task does while its conversation has one that waits or runs."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Of a message that names none; higher ones go first."""
    turn_timeout: float | None = Field(default=None, gt=0)
    """Seconds that a turn may take, where its message does not say; at most TURNS__TIMEOUT, which None stands for."""
    limits: Sequence[Limit] = ()
    slots: int | None = Field(default=None, ge=1)
    """Turns that one worker runs at once; at most WORKER__SLOTS, which None stands for."""
    direct_replies: bool = False
    """The handler may answer with `turn.reply`: streams begin once it is known whether it does."""
    retry_on: Sequence[type[Exception]] = ()
    """Exceptions that are tried again, besides lost connections, timeouts and the HTTP statuses 429, 502, 503 and 504."""

    @field_validator("limits")
    @classmethod
    def _one_each(cls, limits: Sequence[Limit]) -> Sequence[Limit]:
        if len({limit.per for limit in limits}) < len(limits):
            raise ValueError("has two limits per the same")
        return limits

    @field_validator("name", "author", "description")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if "\x00" in value:
            raise ValueError("holds a NUL character")
        return value.strip()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Members that speak of each other agree."""
        unknown = {name for each in self.security for name in each} - set(self.security_schemes)
        if unknown:
            raise ValueError(
                f"security names {', '.join(sorted(unknown))}, which security_schemes does not have"
            )
        said = self.capabilities.model_fields_set
        if self.extended_card is not None and "extended_agent_card" not in said:
            raise ValueError("extended_card is shown only with capabilities.extended_agent_card: true")
        return self


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a turn is: `fraction` 0..1, or None when nobody knows; `note` for people."""

    fraction: float | None
    note: str


Emission = Progress | Artifact | ArtifactChunk | Message | Part | str | dict[str, Any] | list[Any]


class Turn:
    """What a handler may know of its turn, and say before it ends. All methods but `step` are plain calls and safe from any
    thread."""

    def __init__(
        self,
        *,
        task_id: str,
        context_id: str,
        attempt: int,
        messages: Sequence[Message],
        task_metadata: Mapping[str, Any],
        emit: Callable[[Emission], None],
        referenced_tasks: Sequence[Task] = (),
        steps: Steps | None = None,
    ) -> None:
        self.task_id = task_id
        self.context_id = context_id
        self.attempt = attempt
        """1 for the first run of the task, more after crashes, deploys, retries and follow-up messages."""
        self.messages = messages
        """The conversation as A2A messages, oldest first; the agent's artifacts stand as messages of the role agent."""
        self.task_metadata = task_metadata
        self.referenced_tasks = referenced_tasks
        """The tasks that the caller's newest message refers to, as they stood when the turn began, with their artifacts: those
        that exist and are the caller's own."""
        self.replied: Message | None = None
        """What `reply` was told."""
        self.metadata_update: dict[str, Any] = {}
        """What `update_metadata` was told."""
        self._emit = emit
        self._steps = steps or Steps({}, _unkept)
        self._canceled = False

    @property
    def message(self) -> Message:
        """The newest message of the caller."""
        return next(message for message in reversed(self.messages) if message.role == "user")

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the newest message of the caller."""
        return self.message.metadata

    @property
    def reference_task_ids(self) -> Sequence[str]:
        """The ids of tasks that the caller's newest message refers to, as they were sent."""
        return self.message.reference_task_ids

    @property
    def accepted_output_modes(self) -> Sequence[str]:
        """The media types that the caller can do something with, as it named them; empty: any."""
        return texts_in(self.metadata, ACCEPTED_OUTPUT_MODES)

    @property
    def extensions(self) -> Sequence[str]:
        """The URIs of the A2A extensions that the request of the caller's newest message activated: of those that it named, the
        ones that the agent's card declares."""
        return texts_in(self.metadata, EXTENSIONS)

    @property
    def tenant(self) -> str:
        """The tenant that the request of the caller's newest message named, as it came; empty: none. Callers choose it freely."""
        return text_in(self.metadata, TENANT)

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Say how far the turn is, as often as you like: callers see it at most about 20 times a second.

        `fraction` from 0 to 1 (clipped), None for unknown.
        """
        self._emit(Progress(None if fraction is None else min(max(float(fraction), 0.0), 1.0), str(note)))

    def emit(
        self, chunk: Artifact | ArtifactChunk | Message | Part | str | dict[str, Any] | list[Any]
    ) -> None:
        """Stream a piece of the answer: text, data or a part is added to the answer's artifact, an Artifact stands for itself, an
        ArtifactChunk is a piece of one (its id says of which), a Message is said beside them."""
        self._emit(chunk)

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Merge into the task's metadata, top level, when the turn ends: what it cost, where its sources are. None removes a key.
        The keys `progress` and `retry` are Perdure's own."""
        self.metadata_update.update(metadata)

    def reply(self, answer: Message | Part | str | dict[str, Any] | list[Any]) -> None:
        """Answer with a message instead of a task: what a chat wants. The turn ends when the handler returns; a caller that waits
        is given the message alone, without a task. The last one counts.

        It comes as the message of a completed task to whoever knows of the task already, and where the turn has given more than
        this: an artifact, a question, an error.
        """
        message = answer if isinstance(answer, Message) else Message(parts=parts_in(answer))
        self.replied = replace(message, metadata={**message.metadata, REPLY: True})

    @overload
    async def step(
        self, name: str, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, name: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(self, name: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `func(*args, **kwargs)` and store its result with the task, at once; when the turn runs again, after a retry, a
        crash or a deploy, return what was stored and call nothing.

        A coroutine function is awaited; a plain one runs in a thread, so that it does not block the event loop. The result is
        JSON (`TypeError` names the step otherwise) and is given as JSON has it: a tuple as a list. Steps are told apart by
        `name` and by how many of that name came before. What `func` raises is raised, and nothing is stored. `LeaseLost` when
        the task is not this turn's any more, or the turn was told to stop: let it pass.
        """
        self._require_going_on()
        return await self._steps.run(name, functools.partial(func, *args, **kwargs))

    def step_sync(self, name: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`step` for a handler that is a plain function or a generator."""
        self._require_going_on()
        value: T = self._steps.run_here(name, functools.partial(func, *args, **kwargs))
        return value

    def _require_going_on(self) -> None:
        if self.canceled:  # what would be paid for now might be lost
            raise LeaseLost(canceled=False)

    @property
    def canceled(self) -> bool:
        """Whether the turn should end: its caller canceled the task, or another worker has it. For plain functions, which cannot
        be interrupted; coroutines get `asyncio.CancelledError`."""
        return self._canceled

    def cancel(self) -> None:
        """For the worker: make `canceled` true."""
        self._canceled = True


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


async def _unkept(name: str, occurrence: int, result: Any) -> None:
    """A turn that is not stored anywhere."""


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
