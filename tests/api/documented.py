"""Whether an answer is what /openapi.json says: the status, the media type, and every member."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # its stubs are a package of their own

from api.openapi import document
from perdure.agent import AgentConfig

Json = dict[str, Any]
UNDOCUMENTED = re.compile(r"/openapi\.json|/docs(/.*)?|/\.well-known/agent\.json|/metrics|/ops(/.*)?|/agents")
"""The document itself, the page that shows it, an older address, what is for operators, and which agents there are."""
OF_AN_AGENT = re.compile(r"^/agents/[^/]+")
"""Below it is what is at the root of an only agent."""


def check(response: httpx.Response) -> None:
    """Raises AssertionError or ValidationError for an answer that the document does not tell of."""
    request = response.request
    path = OF_AN_AGENT.sub("", request.url.path) or "/"
    if UNDOCUMENTED.fullmatch(path):
        return
    operation = _operation(request.method, path)
    if operation is None or (request.method == "HEAD" and response.status_code == 405):
        assert response.status_code in (401, 404, 405), request.url
        return
    said = operation["responses"].get(str(response.status_code))
    assert said is not None, f"{request.method} {request.url.path} answers {response.status_code}"
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    contents = said.get("content", {})
    assert media_type in contents or not (contents and media_type), f"{request.url.path}: {media_type}"
    if media_type.endswith("json") and request.method != "HEAD":
        validate(response.json(), contents[media_type]["schema"])


def check_event(method: str, path: str, data: Any) -> None:
    """The same for one event of a stream."""
    operation = _operation(method, path)
    assert operation is not None
    validate(data, operation["responses"]["200"]["content"]["text/event-stream"]["schema"])


def check_request(method: str, path: str, body: Any) -> None:
    """The same for what is sent; members that the document does not know are no error there."""
    operation = _operation(method, path)
    assert operation is not None
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": _document()["components"]}).validate(body)


def validate(value: Any, schema: Json) -> None:
    """By the document's schemas, made strict: every member is one that they name."""
    Draft202012Validator({**_strict(schema), "components": _strict_components()}).validate(value)


@cache
def _document() -> Json:
    return document(AgentConfig(name="documented"))


@cache
def _strict_components() -> Json:
    """Once: there is one document, and every answer of every test is held against it."""
    found: Json = _strict(_document()["components"])
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _strict(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) or schema.get("title") == "Nothing":
        closed["additionalProperties"] = False
    return closed


def _operation(method: str, path: str) -> Json | None:
    item = next((item for pattern, item in _patterns() if pattern.fullmatch(path)), {})
    found: Json | None = item.get({"HEAD": "get"}.get(method, method.lower()))
    return found


@cache
def _patterns() -> list[tuple[re.Pattern[str], Json]]:
    """The most particular path first."""
    paths: Json = _document()["paths"]
    order = sorted(paths, key=lambda path: (path.count("{"), -len(path)))
    return [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), paths[path]) for path in order]
