"""JSON schemas of what skills take (draft 2020-12, unless `$schema` names another): whether one is a schema, and what of a value
does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from perdure.errors import ConfigError

MOST = 10
"""Errors that are told of one value."""
LONGEST = 200
"""Characters of one: a validator repeats what it was given."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """What does not fit: the path of the field, as in `items.0.name`, empty for the whole; and why."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


def checked_schema(schema: Any, place: str) -> Mapping[str, Any]:
    """The schema, as JSON has it. `ConfigError` with `place` for what is none."""
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped] # its stubs are a package of their own

    if not isinstance(schema, Mapping):
        raise ConfigError(
            f"{place}: input_schema must be a JSON schema, with members such as type and properties"
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(schema, allow_nan=False))
        _validator_of(plain).check_schema(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: input_schema is no JSON: {error}") from None
    except SchemaError as error:
        where = ".".join(["input_schema", *map(str, error.absolute_path)])
        raise ConfigError(f"{place}: {where}: {_short(error.message)}") from None
    _require_references(plain, place)
    return plain


def _require_references(schema: dict[str, Any], place: str) -> None:
    """Nothing is fetched to judge a message."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ConfigError(
                f"{place}: input_schema refers to {reference}, which is not in it: refer to #/$defs/name"
            ) from None


def misfits(value: Any, schema: Mapping[str, Any]) -> list[Misfit]:
    """What of the value does not fit a schema that was checked; at most `MOST`."""
    errors = _validator_of(schema)(schema).iter_errors(value)
    found = [
        Misfit(".".join(map(str, error.absolute_path)), _short(error.message))
        for error in islice(errors, MOST)
    ]
    return sorted(found, key=lambda misfit: misfit.field)


def _validator_of(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # its stubs are a package of their own
    from jsonschema.validators import validator_for  # type: ignore[import-untyped] # the same

    return validator_for(schema, default=Draft202012Validator)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _references(each)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
