"""Who was refused, in the log: from where and why, never the credential; and not a line for each try of somebody who tries on."""

from __future__ import annotations

import time

import structlog
from starlette.requests import Request

from .credentials import Refused

log = structlog.get_logger(__name__)

EVERY = 10.0
"""Seconds between two lines about the same address and reason."""
MOST_KINDS = 1000
"""Addresses and reasons that are told apart within that time; all others are one."""


class RefusalLog:
    """Writes at most one line in `EVERY` seconds for each address and reason; the next one says how many were left out."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def tell(self, request: Request, refused: Refused) -> None:
        """Tell of a refused request."""
        now = time.monotonic()
        kind = (request.client.host if request.client else "", refused.reason)
        if kind not in self._told and len(self._told) >= MOST_KINDS:
            self._told = {each: told for each, told in self._told.items() if now - told[0] < EVERY}
            kind = kind if len(self._told) < MOST_KINDS else ("many", "many")
        since, left_out = self._told.get(kind, (float("-inf"), 0))
        if now - since < EVERY:
            self._told[kind] = since, left_out + 1
            return
        self._told[kind] = now, 0
        log.warning(
            "auth.refused",
            reason=refused.reason,
            client=request.client.host if request.client else None,
            **({"key_id": refused.who} if refused.who else {}),
            **({"left_out": left_out} if left_out else {}),
        )
