"""The JSON schemas (2020-12) of requests and answers, as components of an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from perdure.telling import Json

from . import v03, v03_rest, v1
from .reading import Shape
from .told import Told

PLACE = "#/components/schemas/"
_SUFFIXES = {v1.__name__: "", v03.__name__: "03", v03_rest.__name__: "03Rest"}
_NAMES = {
    "Send": "SendMessageRequest",
    "Configuration": "SendMessageConfiguration",
    "Authentication": "AuthenticationInfo",
    "Callback": "PushNotificationConfig",
    "SetCallback": "SetPushNotificationConfig",
    "DeleteCallback": "DeletePushNotificationConfig",
}
"""What A2A calls what the dialects call otherwise."""


def name_of(model: type[BaseModel]) -> str:
    """The name of a model's component: its class's, with the dialect where that is not 1.0."""
    own = model.__name__.removesuffix("Shape")
    return _NAMES.get(own, own) + _SUFFIXES.get(model.__module__, "")


def ref(model: type[BaseModel]) -> Json:
    """A reference to a model's component."""
    return {"$ref": PLACE + name_of(model)}


@cache
def components() -> Mapping[str, Json]:
    """The schema of every shape of this package, by its component's name."""
    models = [*_heirs(Shape), *_heirs(Told)]
    places, document = models_json_schema([(model, "validation") for model in models])
    names = {places[model, "validation"]["$ref"]: model for model in models}
    found = document["$defs"]
    return {
        name_of(model): {**_readable(found[place.rpartition("/")[2]], names), "title": name_of(model)}
        for place, model in names.items()
    }


def _heirs(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for heir in model.__subclasses__():
        yield heir
        yield from _heirs(heir)


def _readable(schema: Any, names: dict[str, type[BaseModel]]) -> Any:
    """A schema with its references, and without what tells people nothing: titles made of names, null as a default, and that
    null is taken for a member that was left out, which holds everywhere."""
    if isinstance(schema, list):
        return [_readable(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if set(schema) == {"$ref"}:
        return ref(names[schema["$ref"]])
    kept = {name: _readable(each, names) for name, each in schema.items() if not _is_noise(name, each)}
    if "oneOf" in kept and all("$ref" in each for each in kept["oneOf"]):
        # A tagged union whose tag is no member: the alternatives overlap.
        kept["anyOf"] = kept.pop("oneOf")
    if {"type": "null"} in kept.get("anyOf", ()) and "default" in schema:
        return _without_null(kept)
    return kept


def _is_noise(name: str, value: Any) -> bool:
    return (name == "title" and isinstance(value, str)) or (name == "default" and value is None)


def _without_null(schema: Json) -> Json:
    others = [each for each in schema["anyOf"] if each != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**others[0], **rest} if len(others) == 1 else {"anyOf": others, **rest}
