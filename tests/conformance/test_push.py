"""Push notification configs (sections 3.1.7 to 3.1.10, 4.3)."""

from __future__ import annotations

from .marks import IN_ONE_LOOP, NEW, must
from .speakers import Speaker, refused
from .test_messages import ENDS, at
from .test_tasks import UNKNOWN

pytestmark = IN_ONE_LOOP

HOOK = "https://hook.test/a"
FULL = {"url": HOOK, "token": "t", "authentication": {"scheme": "Bearer", "credentials": "c"}}
SHOWN_HOOK = "https://hook.test/***"
SHOWN = {"url": SHOWN_HOOK, "authentication": {"scheme": "Bearer"}}
"""Secrets are not told again."""


@must("3.1.7", "Creating a config returns it with its task and an id, which is made where none is given")
async def test_create(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    made = await speaker.create_config(task_id, **FULL)
    assert made == {"taskId": task_id, "id": made["id"], **SHOWN}
    assert made["id"]
    named = await speaker.create_config(task_id, id="mine", url=HOOK)
    assert named == {"taskId": task_id, "id": "mine", "url": SHOWN_HOOK}


@must("3.1.7", "A config with the id of another takes its place")
async def test_update(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    for url in (HOOK, "https://other.test/b"):
        await speaker.create_config(task_id, id="mine", url=url)
    assert [config["url"] for config in await speaker.configs(task_id)] == ["https://other.test/***"]


@must("3.1.7", "A task may have several configs", *NEW)
async def test_several(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    made = [await speaker.create_config(task_id, url=f"https://hook.test/{n}") for n in range(3)]
    assert len({config["id"] for config in made}) == 3
    assert {config["id"] for config in await speaker.configs(task_id)} == {config["id"] for config in made}


@must(
    "3.1.7",
    "A config lasts until the task has ended or the config is deleted; configs of an ended task can still be managed",
)
async def test_an_ended_task_still_has_its_configs(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = await at(speaker, end)
        made = await speaker.create_config(task_id, url=HOOK)
        assert await speaker.get_config(task_id, made["id"]) == made
        await speaker.delete_config(task_id, made["id"])


@must("3.1.7", "A config for a task that does not exist: TaskNotFound")
async def test_configs_of_unknown_tasks(speaker: Speaker) -> None:
    for task_id in UNKNOWN[:2]:
        assert (await refused(speaker.create_config(task_id, url=HOOK))).name == "TASK_NOT_FOUND"


@must("3.1.7", "A config without an address to call is refused")
async def test_a_config_needs_an_address(speaker: Speaker) -> None:
    for url in ["", "hook", "ftp://hook.test", None]:
        task_id = (await speaker.send())["id"]
        error = await refused(speaker.create_config(task_id, url=url))
        assert error.name == "INVALID_PARAMS"
        assert error.fields[0].endswith("url")
        assert await speaker.configs(task_id) == []


@must("3.1.8", "A config is returned with its address and what was set, but for its secrets")
async def test_get(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    made = await speaker.create_config(task_id, id="mine", **FULL)
    assert await speaker.get_config(task_id, "mine") == made


@must("3.1.8", "A config that does not exist, or belongs to another task, is an error")
async def test_get_nothing(speaker: Speaker) -> None:
    task_id, other = (await speaker.send())["id"], (await speaker.send())["id"]
    await speaker.create_config(other, id="mine", url=HOOK)
    for asked in (speaker.get_config(task_id, "mine"), speaker.get_config(UNKNOWN[0], "mine")):
        assert (await refused(asked)).name == "TASK_NOT_FOUND"


@must("3.1.9", "All configs of a task are listed, and none of another")
async def test_list(speaker: Speaker) -> None:
    task_id, other = (await speaker.send())["id"], (await speaker.send())["id"]
    assert await speaker.configs(task_id) == []
    made = [await speaker.create_config(task_id, id=name, url=HOOK) for name in ("a", "b", "c")]
    await speaker.create_config(other, id="d", url=HOOK)
    assert await speaker.configs(task_id) == made


@must("3.1.9", "Listing the configs of a task that does not exist: TaskNotFound")
async def test_list_of_an_unknown_task(speaker: Speaker) -> None:
    for task_id in UNKNOWN[:2]:
        assert (await refused(speaker.configs(task_id))).name == "TASK_NOT_FOUND"


@must("3.1.10", "A deleted config is gone")
async def test_delete(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    await speaker.create_config(task_id, id="mine", url=HOOK)
    await speaker.create_config(task_id, id="other", url=HOOK)
    await speaker.delete_config(task_id, "mine")
    assert [config["id"] for config in await speaker.configs(task_id)] == ["other"]
    assert (await refused(speaker.get_config(task_id, "mine"))).name == "TASK_NOT_FOUND"


@must("3.1.10", "Deleting a config again is no error")
async def test_delete_is_idempotent(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    await speaker.create_config(task_id, id="mine", url=HOOK)
    for _ in range(3):
        await speaker.delete_config(task_id, "mine")


@must("3.1.10", "Deleting a config of a task that does not exist: TaskNotFound")
async def test_delete_of_an_unknown_task(speaker: Speaker) -> None:
    assert (await refused(speaker.delete_config(UNKNOWN[0], "mine"))).name == "TASK_NOT_FOUND"
