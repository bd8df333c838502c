"""Which failures may pass, and when to try again.

Libraries are known by their looks, so that none has to be imported: the names of their exceptions for lost connections and
timeouts, and a `status_code` with `headers` on the exception or on its `response` (httpx, requests, aiohttp, urllib, openai,
anthropic).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

from tenacity import RetryCallState, Retrying, wait_random_exponential

from perdure.errors import Retry

LONGEST = 30 * 86400.0
"""Seconds. A server that asks for more is not meant, nor is a Retry."""

_STATUSES = (429, 502, 503, 504)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_NAMES = {
    "ConnectionError",  # requests, redis
    "Timeout",  # requests
    "TimeoutError",  # redis, asyncpg's pool
    "NetworkError",  # httpx: a connection that was refused, reset or closed
    "TimeoutException",  # httpx
    "RemoteProtocolError",  # httpx: the server hung up in the middle of its answer
    "APIConnectionError",  # openai, anthropic
    "ClientConnectionError",  # aiohttp
}


@dataclass(frozen=True, slots=True)
class MayPass:
    """A failure that may have passed when the turn is run again."""

    after: float | None = None
    """Seconds that the handler wants to wait; None: the growing pause."""
    at_least: float = 0.0
    """Seconds that a server wants us to wait."""
    reason: str = ""
    """For the caller. The text of an exception is not."""

    def delay(self, failures: int, *, base: float, cap: float) -> float:
        """Seconds until the next run, after `failures` earlier ones: what was asked for, else full jitter over a pause that
        doubles from `base` up to `cap`."""
        if self.after is not None:
            return self.after
        return self.at_least + _jittered(failures, base, cap)


def may_pass(error: BaseException, retry_on: Sequence[type[Exception]] = ()) -> MayPass | None:
    """Whether a turn that ended with `error` should be tried again: a `Retry`, one of `retry_on`, a lost connection, a timeout,
    an HTTP answer 429, 502, 503 or 504; a group in which each is one of these."""
    match error:
        case Retry():
            return MayPass(None if error.after is None else _within(error.after), reason=str(error))
        case BaseExceptionGroup(exceptions=errors):
            found = [may_pass(each, retry_on) for each in errors]
            return _together([each for each in found if each]) if all(found) else None
        case Exception() if _transient(error, tuple(retry_on)):
            return MayPass(at_least=_retry_after(error))
    return None


def _together(found: Sequence[MayPass]) -> MayPass:
    waits = [each.after for each in found if each.after is not None]
    return MayPass(
        after=max(waits) if len(waits) == len(found) else None,
        at_least=max([each.at_least for each in found] + waits),
        reason=next((each.reason for each in found if each.reason), ""),
    )


def _transient(error: Exception, retry_on: tuple[type[Exception], ...]) -> bool:
    if isinstance(error, (*retry_on, ConnectionError, TimeoutError, socket.gaierror)):
        return True
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return True
    if any(kind.__name__ in _NAMES for kind in type(error).__mro__):
        return True
    return any(
        getattr(bearer, name, None) in _STATUSES
        for bearer in _bearers(error)
        for name in ("status_code", "status", "code")
    )


def _bearers(error: Exception) -> Iterator[Any]:
    yield error
    yield getattr(error, "response", None)


def _retry_after(error: Exception) -> float:
    """What a Retry-After header asks for, in seconds: a number or a date (RFC 9110, section 10.2.3). 0 without one."""
    for bearer in _bearers(error):
        headers = getattr(bearer, "headers", None)
        if headers is not None and hasattr(headers, "get"):
            value = headers.get("retry-after") or headers.get("Retry-After")
            if value:
                return _within(_seconds(str(value).strip()))
    return 0.0


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _within(seconds: float) -> float:
    return min(max(float(seconds), 0.0), LONGEST) if isfinite(seconds) else 0.0


def _jittered(failures: int, base: float, cap: float) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = failures + 1
    return float(wait_random_exponential(multiplier=base, max=cap)(state))
