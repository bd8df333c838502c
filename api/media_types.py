"""Media types: whether the agent takes what is sent to it, and whether it has what its caller accepts.

Parameters and case do not count; `*/*` and `image/*` stand for many. The modes of older cards are understood: `text`, `data` and
`file`. What a part holds is said by its `mediaType`, else by its kind: text is text/plain, data is application/json, a file is
what its name says. Where nothing says it there is nothing to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from mimetypes import guess_type
from urllib.parse import urlsplit

from perdure.agent import Agent
from perdure.errors import ContentTypeNotSupported
from perdure.tasks import DataPart, Part, TextPart, UrlPart

from .wire.asked import Send

_OLD_NAMES = {
    "text": "text/plain",
    "data": "application/json",
    "json": "application/json",
    "file": "*/*",
    "*": "*/*",
}


class Modes:
    """What an agent takes and gives, its skills included, also those that only the extended card tells (A2A 1.0, sections 4.4.1
    and 4.4.5)."""

    def __init__(self, agent: Agent) -> None:
        config, skills = agent.config, (*agent.skills, *agent.extended_skills)
        self.taken = _all(config.default_input_modes, *(skill.input_modes for skill in skills))
        self.given = _all(config.default_output_modes, *(skill.output_modes for skill in skills))

    def check(self, send: Send) -> None:
        """`ContentTypeNotSupported` for a part that the agent does not take, and for a caller that accepts nothing of what it
        gives."""
        for place, part in enumerate(send.message.parts):
            found = media_type_of(part)
            if found and not _matches_one(found, self.taken):
                raise ContentTypeNotSupported(
                    f"message.parts[{place}] is {found}; this agent takes {', '.join(self.taken) or 'nothing'}"
                )
        wanted = _all(send.accepted_output_modes) if send.accepted_output_modes else ()
        if wanted and not any(_matches_one(given, wanted) for given in self.given):
            raise ContentTypeNotSupported(
                f"this agent gives {', '.join(self.given) or 'nothing'}, and nothing of it is accepted"
            )


def media_type_of(part: Part) -> str:
    """`type/subtype`, lower case; empty when it is unknown."""
    if part.media_type:
        return _plain(part.media_type)
    match part:
        case TextPart():
            return "text/plain"
        case DataPart():
            return "application/json"
        case UrlPart(url=url) if not part.filename:
            return guess_type(urlsplit(url).path)[0] or ""
    return guess_type(part.filename)[0] or ""


def _all(*modes: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(_plain(mode) for some in modes for mode in some if mode))


def _plain(mode: str) -> str:
    name = mode.partition(";")[0].strip().lower()
    return _OLD_NAMES.get(name, name)


@lru_cache(maxsize=256)
def _matches_one(name: str, modes: tuple[str, ...]) -> bool:
    return any(_overlap(name, mode) for mode in modes)


def _overlap(one: str, other: str) -> bool:
    """Whether something can be both; each may be a range."""
    return all(
        left == right or "*" in (left, right)
        for left, right in zip(one.partition("/")[::2], other.partition("/")[::2], strict=True)
    )
