"""Where a setting becomes an adapter: the only module that knows them all.

Adapters are imported when they are chosen, so that the embedded default pays for neither SQLAlchemy nor Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from perdure.agent import Agent
from perdure.errors import ConfigError
from perdure.queue import Queue
from perdure.settings import Settings, listed
from perdure.storage import Storage
from perdure.watch import Watch


def make_storage(settings: Settings, *, worker: bool = False) -> Storage:
    """The storage that the settings name, not yet opened. `worker`: for a process that does nothing else, and needs no role
    but the workers'. ConfigError for an address that cannot be one."""
    if settings.storage_type == "memory":
        from perdure.storage.memory import MemoryStorage

        return MemoryStorage(finished_tasks=settings.storage.finished_tasks)
    from perdure.security.vault import Vault
    from perdure.storage.postgres import PostgresStorage

    keys = settings.webhooks.keys
    vault = Vault(listed(keys.get_secret_value())) if keys else None
    url, migrations_url = database_url(settings), database_url(settings, migrations=True)
    secret = settings.worker_database_url
    of_workers = None if secret is None else secret.get_secret_value()
    if worker:
        alone = settings.storage.model_copy(update={"row_security": False})
        return PostgresStorage(of_workers or url, alone, migrations_url=migrations_url, vault=vault)
    return PostgresStorage(
        url, settings.storage, migrations_url=migrations_url, workers_url=of_workers, vault=vault
    )


def require_keys(agents: Iterable[Agent], settings: Settings) -> None:
    """ConfigError for agents with push notifications whose callers' secrets would lie open in the database."""
    told = [agent for agent in agents if agent.config.capabilities.push_notifications]
    if settings.storage_type == "postgres" and settings.webhooks.keys is None and told:
        raise ConfigError(
            f"the agent {told[0].config.name} has push notifications: set WEBHOOKS__KEYS, with which their addresses "
            "and secrets are sealed in the database, to what `perdure webhooks key` prints, the same in every process"
        )


def make_queue(settings: Settings) -> Queue:
    """The queue that the settings name, not yet opened. ConfigError for workers that could not see the tasks."""
    if settings.queue_type == "inline":
        from perdure.queue.inline import InlineQueue

        return InlineQueue()
    if settings.storage_type == "memory":
        raise ConfigError(
            "QUEUE_TYPE=arq needs STORAGE_TYPE=postgres: other processes cannot see tasks in memory"
        )
    from perdure.queue.arq import ArqQueue

    return ArqQueue(settings.redis_url.get_secret_value(), settings.queue_name)


def database_url(settings: Settings, *, migrations: bool = False) -> str:
    """The database's address as it was given; for `migrations` the direct one where there is one. ConfigError without any."""
    url = settings.database_url
    if migrations:
        url = settings.migrations_database_url or url
    if url is None:
        raise ConfigError("there is no database: set DATABASE_URL=postgresql://user:password@host:5432/name")
    return url.get_secret_value()


@asynccontextmanager
async def opened(storage: Storage, queue: Queue, watch: Watch) -> AsyncIterator[None]:
    """All of them open while inside. Closed in reverse: nothing is closed under its user."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(storage.close)
        await storage.open()
        stack.push_async_callback(queue.close)
        await queue.open()
        await stack.enter_async_context(watch.running())
        yield
