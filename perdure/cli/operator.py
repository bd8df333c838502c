"""An operator at the shell: the storage that the settings name, opened for one command. Needs DATABASE_URL; Redis may be away."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from perdure.operating import Operator
    from perdure.settings import Settings
    from perdure.storage import Storage


def as_operator(work: Callable[[Operator], Awaitable[Any]]) -> Any:
    """Run `work` with an operator; what it raises becomes one line."""

    async def worked(settings: Settings) -> Any:
        async with opened(settings) as operator:
            return await work(operator)

    return _with_settings(worked)


def on_storage(work: Callable[[Storage], Awaitable[Any]]) -> Any:
    """Run `work` with the storage alone, for all owners; what it raises becomes one line. The schema is brought up to date first
    where the settings say so."""

    async def worked(settings: Settings) -> Any:
        from perdure.backends import make_storage

        storage = make_storage(settings, worker=True)
        try:
            await storage.open()
            return await work(storage)
        finally:
            await storage.close()

    return _with_settings(worked)


def _with_settings(work: Callable[[Settings], Coroutine[Any, Any, Any]]) -> Any:
    with said_in_one_line():
        from perdure import logs
        from perdure.launch import run
        from perdure.settings import load_settings

        settings = load_settings(storage_type="postgres")
        # What happens on the way, a migration perhaps, is not what was asked for.
        logs.set_up(settings.log.model_copy(update={"level": "error"}))
        return run(work(settings))


def fail(text: str) -> NoReturn:
    """End the process with this line, and exit code 1."""
    from perdure.launch import one_line

    one_line(text)
    raise SystemExit(1)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Operator]:
    """An operator on the storage and the queue of the settings. The schema is left as it is."""
    from perdure.backends import make_queue, make_storage
    from perdure.operating import Operator

    quiet = settings.storage.model_copy(update={"run_migrations_on_startup": False, "startup_timeout": 0.0})
    storage, queue = (
        make_storage(settings.model_copy(update={"storage": quiet}), worker=True),
        make_queue(settings),
    )
    try:
        await storage.open()
        yield Operator(storage, queue, actor=_who())
    finally:
        await queue.close()
        await storage.close()


def _who() -> str:
    """Whom the audit names."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user may have no name
        return socket.gethostname()


@contextmanager
def said_in_one_line() -> Iterator[None]:
    """Wrong settings: exit code 2; a service that is away, or what cannot be done: 1."""
    from perdure.errors import CallerError
    from perdure.launch import one_line, one_line_errors

    with one_line_errors():
        try:
            yield
        except CallerError as error:
            one_line(error)
            raise SystemExit(1) from None
