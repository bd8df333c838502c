"""/openapi.json is valid, complete and true; /docs shows it with nothing from elsewhere.

That it is true is also shown by all other tests of this folder: every answer they get is held against it (`Front`).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema import ValidationError  # type: ignore[import-untyped] # its stubs are a package of their own
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from api.jsonrpc import METHODS
from perdure.tasks import TaskState
from tests.api.documented import UNDOCUMENTED, check_event, check_request, validate
from tests.api.front import Front, Json, Live, chunk, message, message03, opened_front, says
from tests.api.test_card import FULL, SECURE

DEVICE = {
    "type": "oauth2",
    "oauth2_metadata_url": "https://sky.test/oauth",
    "flows": {
        "device_code": {"device_authorization_url": "https://sky.test/d", "token_url": "https://sky.test/t"}
    },
}
SCHEMES = {**SECURE["security_schemes"], "device": DEVICE}


async def document(config: Json | None = None) -> Json:
    async with opened_front(config) as front:
        response = await front.http.get("/openapi.json")
        assert response.headers["Content-Type"] == "application/json"
        found: Json = response.json()
        return found


@pytest.mark.parametrize("config", [{}, FULL, SECURE | {"security_schemes": SCHEMES}])
async def test_it_is_valid(config: Json) -> None:
    found = await document(config)
    errors = [
        f"{list(error.path)}: {error.message}" for error in OpenAPIV31SpecValidator(found).iter_errors()
    ]
    assert not errors


async def test_it_tells_of_the_agent() -> None:
    found = await document(FULL | SECURE)
    assert (found["info"]["title"], found["info"]["version"]) == ("weather", "2.1.0")
    assert [server["url"] for server in found["servers"]] == [".", "https://weather.test/agent"]
    assert found["security"] == SECURE["security"]
    assert found["components"]["securitySchemes"]["key"] == {
        "type": "apiKey",
        "in": "header",
        "name": "X-Key",
    }
    assert found["paths"]["/healthz"]["get"]["security"] == []


async def test_every_route_is_in_it_and_nothing_else(front: Front) -> None:
    served = {
        (route.path, method)
        for route in front.app.routes
        if isinstance(route, Route) and not UNDOCUMENTED.fullmatch(route.path)
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = (await document())["paths"]
    assert {(path, method.upper()) for path, item in paths.items() for method in item} == served


async def test_every_method_of_json_rpc_is_in_it() -> None:
    operation = (await document())["paths"]["/"]["post"]
    requests = operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert [request["properties"]["method"]["const"] for request in requests] == list(METHODS)


async def test_operations_have_ids_of_their_own() -> None:
    items = (await document())["paths"].values()
    ids = [operation["operationId"] for item in items for operation in item.values()]
    assert len(ids) == len(set(ids)) == 41


async def test_its_examples_are_what_it_describes_and_work(echoing: Front) -> None:
    found = await document()
    rpc = found["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]
    for example in rpc["examples"].values():
        check_request("POST", "/", example["value"])
        assert "result" in (await echoing.http.post("/", json=example["value"])).json()
    for path in ("/message:send", "/v1/message:send", "/acme/message:send"):
        example = found["paths"][path.replace("acme", "{tenant}")]["post"]["requestBody"]["content"]
        body = example["application/json"]["example"]
        check_request("POST", path, body)
        assert "task" in (await echoing.http.post(path, json=body)).json()


async def test_it_refuses_what_the_door_refuses(front: Front) -> None:
    for wrong in (
        {"message": message(parts=[])},
        {"message": message(parts=[{}])},
        {"message": message(parts=[{"text": "a", "url": "https://a.test"}])},
        {"message": message(role="user")},
        {"message": message(messageId="")},
        {},
    ):
        with pytest.raises(ValidationError):
            check_request("POST", "/message:send", wrong)
        assert (await front.http.post("/message:send", json=wrong)).status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/message:stream", {"message": message()}),
        (
            "/v1/message:stream",
            {"message": {"messageId": "m", "role": "ROLE_USER", "content": [{"text": "a"}]}},
        ),
        (
            "/",
            {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": {"message": message()}},
        ),
        ("/", {"jsonrpc": "2.0", "id": 7, "method": "message/stream", "params": {"message": message03()}}),
    ],
)
async def test_events_are_what_it_says(front: Front, path: str, body: Json) -> None:
    end: Any = {
        "state": TaskState.COMPLETED,
        "new_artifacts": [chunk("a", append=False), chunk("b", last=True)],
    }
    front.plays(lambda turn: end | {"status_message": says("done")})
    check_request("POST", path, body)
    async with Live(front.app, "POST", path, body) as live:
        frames = await live.rest()
    assert len(frames) == 5
    for frame in frames:
        check_event("POST", path, frame.data)


def test_the_check_is_a_check() -> None:
    """Members that the document does not name are found, however deep they are."""
    part = {"$ref": "#/components/schemas/Part"}
    validate({"text": "a"}, part)
    for wrong in ({"text": "a", "odd": 1}, {"text": 1}, {}):
        with pytest.raises(ValidationError):
            validate(wrong, part)


async def test_it_is_not_sent_again_to_whoever_has_it(front: Front) -> None:
    first = await front.http.get("/openapi.json")
    known = {"If-None-Match": first.headers["ETag"]}
    assert (await front.http.get("/openapi.json", headers=known)).status_code == 304
    async with opened_front() as other:
        assert (await other.http.get("/openapi.json")).headers["ETag"] == first.headers["ETag"]


# ---------------------------------------------------------------------- the page


async def test_the_page_loads_nothing_from_elsewhere(front: Front) -> None:
    page = await front.http.get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert "docs/swagger-ui-bundle.js" in loaded
    for address in loaded:
        if address != "data:,":
            assert not re.match(r"\w+:|/", address), "must be relative: the agent may live under a path"
            assert (await front.http.get(f"/{address}")).status_code == 200
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert "openapi.json" in (await front.http.get("/docs/docs.js")).text


async def test_a_tenant_may_be_called_docs(front: Front) -> None:
    assert (await front.http.get("/docs/tasks")).json()["totalSize"] == 0
    assert (await front.http.get("/docs/nothing")).status_code == 404


@pytest.mark.parametrize("version", ["", "1.0", "0.3", "1.0.1", " 0.3.0 ", "1", "2.0", "latest", "11.0"])
async def test_the_versions_it_names_are_those_that_are_served(front: Front, version: str) -> None:
    pattern = (await document())["components"]["parameters"]["A2A-Version"]["schema"]["pattern"]
    reply = (await front.post("tasks/list", {}, A2A_Version=version)).json()
    assert bool(re.search(pattern, version)) == ("result" in reply)
