"""What follows from an attempt: delivered, again later, given up or disabled; and whether the endpoint is to blame."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from perdure.storage.webhooks import Delivered, Disabled, GivenUp, Later, Verdict

from .client import Answer

PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds before each further try: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h. Then it is given up."""
JITTER = 0.2
MOST_RETRY_AFTER = 86_400.0
_GONE = 410


def verdict(answer: Answer | None, *, tries: int, failing_for: float, disable_after: float) -> Verdict:
    """None: there was no answer."""
    if answer is not None and 200 <= answer.status < 300:
        return Delivered()
    if answer is not None and answer.status == _GONE:
        return Disabled("it answered 410 Gone")
    if failing_for >= disable_after:
        return Disabled(f"nothing was delivered for {failing_for / 86_400:.1f} days")
    if tries > len(PAUSES):
        return GivenUp()
    pause = PAUSES[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- no secret
    return Later(max(pause, retry_after(answer)))


def blamed(answer: Answer | None) -> bool:
    """Whether the endpoint itself is in trouble. What it answers to one request (a wrong token, a path that is not there) is
    not its other callers' affair."""
    return answer is None or answer.status == 429 or answer.status >= 500


def retry_after(answer: Answer | None) -> float:
    """Seconds that a 429 or 503 asks for, in either form (RFC 9110, section 10.2.3); 0 for none."""
    if answer is None or answer.status not in (429, 503):
        return 0.0
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MOST_RETRY_AFTER)
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return min(max((aware - datetime.now(UTC)).total_seconds(), 0.0), MOST_RETRY_AFTER)
