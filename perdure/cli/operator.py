"""An operator at the shell: the storage that the settings name, opened for one command. Needs DATABASE_URL; Redis may be away."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.operating import Operator
    from perdure.settings import Settings

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."


def as_operator(work: Callable[[Operator], Awaitable[Any]]) -> Any:
    """Run `work` with an operator; what it raises becomes one line."""
    with said_in_one_line():
        from perdure import logs
        from perdure.launch import run
        from perdure.settings import load_settings

        settings = load_settings(storage_type="postgres")
        logs.set_up(settings.log.model_copy(update={"level": "error"}))
        return run(_worked(settings, work))


async def _worked(settings: Settings, work: Callable[[Operator], Awaitable[Any]]) -> Any:
    async with opened(settings) as operator:
        return await work(operator)


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
