"""What is wrong with an agent's config, in words for its author."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_WORDS = {
    "invalid_key": "members are named by text",
    "is_instance_of": "must be a list",  # only of sequences is more asked than their members
    "missing": "is required",
    "sequence_str": "must be a list, also of one",
}


def readable(error: ValidationError, model: type[BaseModel]) -> str:
    """A validation error of `model` as one line: `deployment.url: Input should be a valid URL; name: is required`."""
    return "; ".join(
        _said(problem, model)
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _said(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        said = f"there is no such member{_meant(problem['loc'], model)}"
    else:
        said = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{place}: {said}" if place else said


def _meant(place: Sequence[int | str], model: type[BaseModel]) -> str:
    """The member whose name looks like it, written `like_this`, `likeThis` or wrong."""
    members = {name.replace("_", ""): name for name in _members(place[:-1], model)}
    found = get_close_matches(str(place[-1]).replace("_", "").lower(), members, n=1, cutoff=0.75)
    return f"; did you mean {members[found[0]]}?" if found else ""


def _members(place: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """Those of the model at this place; none where several could stand there."""
    for step in place:
        if not isinstance(step, str):
            continue  # the place in a list of models
        annotation = model.model_fields[step].annotation if step in model.model_fields else None
        models = list(_models(annotation))
        if len(models) != 1:
            return []
        [model] = models
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
