"""uvicorn, as the front door needs it: it stops in order."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from perdure.launch.parts import ours
from perdure.settings import Settings

ANSWER_SECONDS = 2
"""For the last answers once the time of open requests is over."""


class Application(Protocol):
    """An ASGI application whose `router.lifespan_context(application)` opens and closes what it needs. `state.dismiss()` answers
    those who wait for a task with the task as it stands, `state.hang_up()` ends what only looks on."""

    router: Any
    state: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def server_of(app: Application, settings: Settings, listening: Callable[[], None]) -> Any:
    """A uvicorn server; its `stopped_by` is the signal that ended it. `listening` is called once it listens."""
    import uvicorn  # here: a worker needs none

    class Server(uvicorn.Server):
        stopped_by: int | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listening()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Before uvicorn cancels what is still open: a 500 would make a client send an accepted message again.
            asyncio.get_running_loop().call_later(settings.server.stop_timeout, app.state.dismiss)
            app.state.hang_up()
            await super().shutdown(sockets)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn does, without raising the signal again at the end: the lifespan has to close first."""
            interrupt = signal.getsignal(signal.SIGINT)
            on_signal(signal.SIGINT, self.handle_exit)
            on_signal(signal.SIGTERM, self.handle_exit)
            try:
                yield
            finally:
                on_signal(signal.SIGINT, interrupt)  # a second Ctrl-C ends the grace of the turns
                on_signal(signal.SIGTERM, signal.SIG_IGN)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.stopped_by = self.stopped_by or sig
            super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            proxy_headers=False,  # who may speak for a client is said by AUTH__PROXY_ADDRESSES
            http=ours("api.connection").connection(settings.server),
            ws="none",
            log_config=None,
            access_log=settings.log.level == "debug",
            server_header=False,
            timeout_keep_alive=75,  # longer than proxies keep idle connections, or they meet ones that are being closed
            timeout_graceful_shutdown=math.ceil(settings.server.stop_timeout) + ANSWER_SECONDS,
        )
    )


def on_signal(number: signal.Signals, handler: Any) -> None:
    """Set a handler, where there are signals."""
    if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signals
        signal.signal(number, handler)
