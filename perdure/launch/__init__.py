"""Puts the parts together: the front door as an ASGI application, as a server, and the worker."""

from __future__ import annotations

from perdure.launch.front_door import asgi, require_authentication, serve, served
from perdure.launch.listeners import DEFAULT_PORT, is_loopback, port_of
from perdure.launch.parts import one_line, one_line_errors, ours, run
from perdure.launch.server import ANSWER_SECONDS
from perdure.launch.worker import work

__all__ = [
    "ANSWER_SECONDS",
    "DEFAULT_PORT",
    "asgi",
    "is_loopback",
    "one_line",
    "one_line_errors",
    "ours",
    "port_of",
    "require_authentication",
    "run",
    "serve",
    "served",
    "work",
]
