"""Secrets at rest: sealed, opened by every key that is given, sealed anew by the first."""

from __future__ import annotations

import asyncpg
import pytest

from perdure.errors import ConfigError, PushNotificationNotSupported
from perdure.ids import new_task_id
from perdure.security.vault import Vault, new_key
from perdure.settings import StorageSettings
from perdure.storage import NewTask, TaskQuery, WebhookConfig
from perdure.storage.postgres import PostgresStorage
from tests.support.stories import ME, says

SECRETS = {"url": "https://hook.test/key", "token": "my-token", "credentials": "my-credentials"}


def test_what_is_sealed_is_opened_and_cannot_be_read() -> None:
    vault = Vault([new_key()])
    sealed = vault.seal("my-token")
    assert "my-token" not in sealed
    assert vault.open(sealed) == "my-token"
    assert vault.seal("my-token") != sealed
    assert vault.open(vault.seal("")) == vault.seal("") == ""


def test_what_was_stored_before_there_were_keys_is_read_as_it_stands() -> None:
    assert Vault([new_key()]).open("https://hook.test") == "https://hook.test"


def test_an_older_key_still_opens_and_a_strange_one_does_not() -> None:
    old, new = new_key(), new_key()
    sealed = Vault([old]).seal("x")
    assert Vault([new, old]).open(sealed) == "x"
    with pytest.raises(ConfigError, match="has not the key"):
        Vault([new]).open(sealed)


def test_a_changed_text_is_not_opened() -> None:
    vault = Vault([new_key()])
    sealed = vault.seal("x")
    with pytest.raises(ConfigError):
        vault.open(sealed[:-4] + ("AAAA" if not sealed.endswith("AAAA") else "BBBB"))


@pytest.mark.parametrize("key", ["", "short", "x" * 44, "é" * 32])
def test_a_key_that_is_none_is_an_error_that_says_so(key: str) -> None:
    with pytest.raises(ConfigError, match="perdure webhooks key"):
        Vault([key])


def storage(url: str, *keys: str) -> PostgresStorage:
    settings = StorageSettings(run_migrations_on_startup=False)
    return PostgresStorage(url, settings, vault=Vault(keys) if keys else None)


def new_task() -> NewTask:
    task_id = new_task_id()
    hook = WebhookConfig(config_id="c", task_id=task_id, **SECRETS)
    return NewTask(task_id=task_id, owner=ME, context_id="talk", message=says("hi"), webhooks=[hook])


async def test_the_keys_are_rotated(database_url: str) -> None:
    old, new = new_key(), new_key()
    first, both, last = (
        storage(database_url, old),
        storage(database_url, new, old),
        storage(database_url, new),
    )
    for each in (first, both, last):
        await each.open()
    task = new_task()
    await first.submit_task(task)
    with pytest.raises(ConfigError):
        await last.load_webhook_config(ME, task.task_id, "c")
    assert await both.reseal_webhooks() == 1
    found = await last.load_webhook_config(ME, task.task_id, "c")
    assert {name: getattr(found, name) for name in SECRETS} == SECRETS
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchval("SELECT webhook_configs::text FROM webhook_configs")
    assert not any(secret in row for secret in SECRETS.values())
    assert not any(secret in repr(found) for secret in SECRETS.values())
    await connection.close()
    for each in (first, both, last):
        await each.close()


async def test_without_a_key_neither_the_config_nor_its_task_is_stored(database_url: str) -> None:
    bare = storage(database_url)
    await bare.open()
    with pytest.raises(PushNotificationNotSupported):
        await bare.submit_task(new_task())
    assert (await bare.list_tasks(TaskQuery(owner=ME))).total == 0
    await bare.close()
