"""What is switched off, and which version is spoken (sections 3.1.11, 3.3.4, 3.6)."""

from __future__ import annotations

import httpx

from perdure.agent import Turn
from perdure.security.schemes import SCOPES
from tests.api.front import at_work, opened_front
from tests.api.test_authentication import KEYS, key_for

from .marks import BOTH_OLD, IN_ONE_LOOP, NEW, OLD, REST, RPC, agent, must, should
from .speakers import SPEAKERS, RestSpeaker, Speaker, refused

pytestmark = IN_ONE_LOOP

REQUIRED, KNOWN = "https://ext.test/required", "https://ext.test/known"


@must(
    "3.3.4",
    "Without push notifications creating, reading, listing and deleting configs: PushNotificationNotSupported",
)
@agent(capabilities={"push_notifications": False})
async def test_push_is_off(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    for asked in (
        speaker.create_config(task_id, url="https://hook.test"),
        speaker.get_config(task_id, "x"),
        speaker.configs(task_id),
        speaker.delete_config(task_id, "x"),
        speaker.create_config("unknown", url="https://hook.test"),
    ):
        assert (await refused(asked)).name == "PUSH_NOTIFICATION_NOT_SUPPORTED"


@must("3.3.4", "Without push notifications a message that brings a config is refused, and nothing is stored")
@agent(capabilities={"push_notifications": False})
async def test_push_is_off_for_messages(speaker: Speaker) -> None:
    error = await refused(speaker.send(callback={"url": "https://hook.test"}))
    assert error.name == "PUSH_NOTIFICATION_NOT_SUPPORTED"
    assert await speaker.front.stored() == 0


@must("3.3.4", "Without streaming, streams and subscriptions: UnsupportedOperation, and nothing is stored")
@agent(capabilities={"streaming": False})
async def test_streaming_is_off(speaker: Speaker) -> None:
    assert (await refused(speaker.stream().opened())).name == "UNSUPPORTED_OPERATION"
    assert await speaker.front.stored() == 0
    task_id = (await speaker.send())["id"]
    assert (await refused(speaker.subscribe(task_id).opened())).name == "UNSUPPORTED_OPERATION"


@must("3.3.4", "Without an extended card: UnsupportedOperation")
async def test_the_extended_card_is_off(speaker: Speaker) -> None:
    assert (await refused(speaker.extended_card())).name == "UNSUPPORTED_OPERATION"


@must("3.1.11", "With an extended card declared and none configured: ExtendedAgentCardNotConfigured")
@agent(capabilities={"extended_agent_card": True})
async def test_the_extended_card_is_not_configured(speaker: Speaker) -> None:
    assert (await refused(speaker.extended_card())).name == "EXTENDED_AGENT_CARD_NOT_CONFIGURED"


EXTENDED = {
    "capabilities": {"extended_agent_card": True},
    "extended_card": {
        "skills": [{"name": "rain", "description": "Makes rain"}],
        "description": "And makes it",
    },
    "security_schemes": {"token": {"type": "http", "scheme": "bearer"}},
    "security": [{"token": []}],
}


@must(
    "3.1.11",
    "The extended card has all of the public one, and more, for callers who have identified themselves",
)
async def test_the_extended_card(speaker: Speaker) -> None:
    async with opened_front(EXTENDED, storage=speaker.front.storage, auth=KEYS) as front:
        key = await key_for(front.storage)
        public = (await front.http.get("/.well-known/agent-card.json")).json()
        card = await type(speaker)(front).answer("extended_card", {}, Authorization=f"Bearer {key}")
    assert [skill["id"] for skill in card["skills"]] == ["rain"]
    assert (public["skills"], card["description"]) == ([], "And makes it")
    same = set(public) - {"skills", "description"}
    assert {name: card[name] for name in same} == {name: public[name] for name in same}


@must("7.4", "Every request is authenticated: without credentials, or with wrong ones, 401 and a challenge")
async def test_missing_credentials(speaker: Speaker) -> None:
    async with opened_front(EXTENDED, storage=speaker.front.storage, auth=KEYS) as front:
        asking = type(speaker)(front)
        headers: dict[str, str]
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            for operation in asking.paths if isinstance(asking, RestSpeaker) else asking.methods:
                response = await raw(asking, operation, headers)
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert "error" in response.json()


@should("7.4", "Who may not do what it asks for is told so: 403")
async def test_missing_rights(speaker: Speaker) -> None:
    async with opened_front(EXTENDED, storage=speaker.front.storage, auth=KEYS) as front:
        key = await key_for(front.storage, scopes=SCOPES[:1])
        response = await raw(type(speaker)(front), "send", {"Authorization": f"Bearer {key}"})
        assert response.status_code == 403
        assert "error" in response.json()
        assert await front.stored() == 0


async def raw(speaker: Speaker, operation: str, headers: dict[str, str]) -> httpx.Response:
    """The answer to an operation as it comes."""
    params = speaker.sending() if operation == "send" else {}
    if isinstance(speaker, RestSpeaker):
        method, path = speaker.paths[operation]
        path = path.format(id="x", taskId="x")
        return await speaker.front.http.request(method, path, json=params or None, headers=headers)
    return await speaker.front.post(speaker.methods[operation], params, **headers)


@must(
    "3.3.4",
    "A required extension that the client does not name: ExtensionSupportRequired, and nothing is stored",
    *NEW,
)
async def test_a_required_extension(speaker: Speaker) -> None:
    # Not by a mark: an agent whose config is refused is to be a failure of the test and no error before it.
    async with opened_front({"capabilities": {"extensions": [{"uri": REQUIRED, "required": True}]}}) as front:
        asking = SPEAKERS[speaker.binding](front)
        assert (await refused(asking.send())).name == "EXTENSION_SUPPORT_REQUIRED"
        assert await front.stored() == 0
        assert await asking.answer("send", asking.sending(), A2A_Extensions=REQUIRED)


@should("3.2.6", "The extensions that are active for a request are named in its answer")
async def test_active_extensions_are_named(speaker: Speaker) -> None:
    header = "X-A2A-Extensions" if speaker.old else "A2A-Extensions"
    async with opened_front({"capabilities": {"extensions": [{"uri": KNOWN}]}}) as front:
        asking = type(speaker)(front)
        params, path = asking.sending(), "/"
        if isinstance(asking, RestSpeaker):
            path = asking.paths["send"][1]
        else:
            params = {"jsonrpc": "2.0", "id": 7, "method": asking.methods["send"], "params": params}
        response = await front.http.post(
            path, json=params, headers={header: f"{KNOWN}, https://ext.test/unknown"}
        )
        assert response.status_code == 200
        assert response.headers[header] == KNOWN


@must("3.2.6", "The agent is told which extensions are active for a message")
async def test_active_extensions_reach_the_agent(speaker: Speaker) -> None:
    header = "X_A2A_Extensions" if speaker.old else "A2A_Extensions"
    config = {"capabilities": {"extensions": [{"uri": KNOWN}]}}

    def tells(messages: object, turn: Turn) -> object:
        return list(turn.extensions)

    async with opened_front(config, storage=speaker.front.storage, handler=tells) as front, at_work(front):
        asking = type(speaker)(front)
        names = {header: f"https://ext.test/unknown,{KNOWN}"}
        result = await asking.answer("send", asking.sending(wait=True), **names)
        task_id = result.get("task", result)["id"]
        ((part,),) = [artifact["parts"] for artifact in (await Speaker(front).get(task_id))["artifacts"]]
        assert part == {"data": [KNOWN]}


@must("3.2.6", "Extensions that the agent does not know are no error: A2A-Extensions")
async def test_unknown_extensions(speaker: Speaker) -> None:
    names = "https://ext.test/a, https://ext.test/b"
    header = {"X_A2A_Extensions" if speaker.old else "A2A_Extensions": names}
    assert await speaker.answer("send", speaker.sending(), **header)


# ---------------------------------------------------------------------- 3.6


@must("3.6.2", "A version that is not served: VersionNotSupported, and nothing is stored", *NEW)
async def test_an_unknown_version(speaker: Speaker) -> None:
    for version in ("99.0", "0.2", "2.0", "1", "latest"):
        error = await refused(speaker.answer("send", speaker.sending(), A2A_Version=version))
        assert error.name == "VERSION_NOT_SUPPORTED"
    assert await speaker.front.stored() == 0


@should("3.6.2", "The error of a version that is not served names those that are", *NEW)
async def test_the_versions_are_named(speaker: Speaker) -> None:
    error = await refused(speaker.answer("get", {"id": "x"}, A2A_Version="99.0"))
    assert "1.0" in error.message
    assert "0.3" in error.message


@must("3.6.1", "The version is Major.Minor: a patch number means nothing", *NEW)
async def test_patches_mean_nothing(speaker: Speaker) -> None:
    for version in ("1.0", "1.0.0", "1.0.1", "1.0.99"):
        assert await speaker.answer("send", speaker.sending(), A2A_Version=version)


@must("3.6.2", "A client that names no version speaks 0.3", *BOTH_OLD)
async def test_no_version_is_0_3(speaker: Speaker) -> None:
    task = await speaker.send()
    assert task.get("kind", "proto") == ("task" if speaker.binding == OLD else "proto")
    assert await speaker.answer("send", speaker.sending(), A2A_Version="")
    assert await speaker.answer("send", speaker.sending(), A2A_Version="0.3")
    assert await speaker.answer("send", speaker.sending(), A2A_Version="0.3.0")


@must(
    "3.6.2",
    "Each version is answered as its own specification wants, by one server at the same time",
    RPC,
    OLD,
)
async def test_versions_side_by_side(speaker: Speaker) -> None:
    task = await speaker.send()
    result = {"1.0": ("GetTask", "TASK_STATE_SUBMITTED"), "0.3": ("tasks/get", "submitted")}
    for version, (method, name) in result.items():
        found = await speaker.front.call(method, {"id": task["id"]}, A2A_Version=version)
        assert found["status"]["state"] == name
        assert ("kind" in found) == (version == "0.3")


@must("3.6.1", "The version may be named in the query of the URL", RPC, REST)
async def test_a_version_in_the_query(speaker: Speaker) -> None:
    http = speaker.front.http
    for version, good in (("1.0", True), ("99.0", False)):
        if speaker.over_http:
            answer = await http.get(f"/tasks?A2A-Version={version}")
        else:
            body = {"jsonrpc": "2.0", "id": 7, "method": "ListTasks"}
            answer = await http.post(f"/?A2A-Version={version}", json=body)
        assert ("error" not in answer.json()) == good
