"""What all told types share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Told(BaseModel):
    """The members of an answer. Those with a default are left out where they say nothing."""

    model_config = ConfigDict(alias_generator=to_camel)


def enum(*names: str) -> Any:
    """A text that is one of these."""
    return Field(json_schema_extra={"enum": list(names)})
