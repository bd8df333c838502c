"""What the front door notes in a caller's message, for the turn that answers it: the only place that goes with a message to its
turn, through crashes, retries and deploys. Nobody else sees the notes: answers are written without them, and what a caller has
under their names is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perdure.tasks import Message

ACCEPTED_OUTPUT_MODES = "perdure.acceptedOutputModes"
"""The media types that the caller accepts: a list of texts."""
EXTENSIONS = "perdure.extensions"
"""The URIs of the extensions that the request activated: a list of texts."""
TENANT = "perdure.tenant"
"""The tenant that the request named: a text."""
REPLY = "perdure.reply"
"""True, in a message of the agent: it is the whole answer."""

SKILL_ID = "skillId"
"""Not ours, and no note: the caller's own word for the skill that the message is for (docs/skill-inputs.md)."""

NOTES = frozenset({ACCEPTED_OUTPUT_MODES, EXTENSIONS, TENANT, REPLY})
"""The members of a message's metadata that are ours."""


def noted(
    message: Message, *, accepted_output_modes: Sequence[str], extensions: Sequence[str], tenant: str
) -> Message:
    """The message with these notes and no others. What says nothing is not noted."""
    if not (accepted_output_modes or extensions or tenant) and NOTES.isdisjoint(message.metadata):
        return message
    notes = {
        ACCEPTED_OUTPUT_MODES: list(accepted_output_modes),
        EXTENSIONS: list(extensions),
        TENANT: tenant,
    }
    said = {name: value for name, value in notes.items() if value}
    return replace(message, metadata={**without_notes(message.metadata), **said})


def without_notes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as callers see it."""
    return {name: value for name, value in metadata.items() if name not in NOTES}


def texts_in(metadata: Mapping[str, Any], note: str) -> tuple[str, ...]:
    """A note that is a list of texts; empty if there is none."""
    found = metadata.get(note)
    return tuple(text for text in found if isinstance(text, str)) if isinstance(found, list) else ()


def text_in(metadata: Mapping[str, Any], note: str) -> str:
    """A note that is a text; empty if there is none."""
    found = metadata.get(note)
    return found if isinstance(found, str) else ""
