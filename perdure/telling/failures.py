"""What a caller is told of an attempt that got no answer.

The log's own words are for operators: they say whether a name resolves, and to what kind of address. A caller who chose the
name could read off from them what stands inside of the network. So he gets one of four sentences, and a name that does not
exist is the same to him as one that must not be asked.
"""

from __future__ import annotations

import re

UNREACHED = "the receiver could not be reached"
LATE = "no answer in time"
BROKE_OFF = "the answer broke off"
NOT_ALLOWED = "the address is not allowed"
"""By its text alone: that says nothing about what it resolves to."""

_SENTENCES = (
    (re.compile("no answer within|(Connect|Read|Write|Pool)Timeout:"), LATE),
    (re.compile("(Read|Write)Error:|RemoteProtocolError:"), BROKE_OFF),
    (re.compile("the address must (?!name a host)"), NOT_ALLOWED),
)


def failure_for_caller(error: str) -> str:
    """The sentence for the `error` of a `DeliveryAttempt`; "" where there was none. What is not known is `UNREACHED`."""
    if not error:
        return ""
    return next((sentence for known, sentence in _SENTENCES if known.match(error)), UNREACHED)
