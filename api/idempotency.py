"""Idempotency keys: how a send says that it is the same as an earlier one (draft-ietf-httpapi-idempotency-key-header-07).

What counts as the same is what would be stored: the message, the metadata, the webhook and the tenant, however they are spelled.
How the answer is wanted does not count: a send may be repeated as a stream, in the other binding or version, without waiting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256

import orjson

from perdure.errors import InvalidParams
from perdure.storage import IdempotencyKey
from perdure.stored.payload import dump_message

from .wire.asked import Callback, Send

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""`true` in an answer: the send was a repeated one."""
LONGEST = 255

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 9651, section 3.3.3: printable ASCII, quotes and backslashes escaped."""
_BARE = re.compile(r"[!#-+\--~]+")
"""As most clients send it. No quotes, spaces and commas: it would be unclear where a key ends."""


def key_of(headers: Sequence[str], send: Send, *, message_ids: bool) -> IdempotencyKey | None:
    """The key of a send; None if it has none.

    `headers` are the values of all its `Idempotency-Key` headers. Without one the message's id is the key, with `message_ids`.
    `InvalidParams` for a header that is malformed.
    """
    if headers:
        name = f'"{_read(headers)}"'
    elif message_ids:
        name = f"messageId {send.message.message_id}"  # begins as no header's key does: they never collide
    else:
        return None
    return IdempotencyKey(name, fingerprint(send))


def _told_by(callback: Callback) -> dict[str, str]:
    """What the caller said of it: not in which version, nor where."""
    return {name: value for name, value in asdict(callback).items() if name not in ("version", "place")}


def _read(headers: Sequence[str]) -> str:
    if len(headers) > 1:
        raise InvalidParams(HEADER, "must be given once")
    text = headers[0].strip(" \t")
    if quoted := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    elif not _BARE.fullmatch(text):
        raise InvalidParams(HEADER, "must be printable ASCII, in quotes if it holds spaces or commas")
    if not 0 < len(text) <= LONGEST:
        raise InvalidParams(HEADER, f"must have 1 to {LONGEST} characters")
    return text


def fingerprint(send: Send) -> str:
    """The SHA-256 of what a send would store, in hex. The same in every process and version of Python."""
    stored = {
        "message": dump_message(send.message),
        "metadata": send.metadata,
        "callback": send.callback and _told_by(send.callback),
        **({"tenant": send.tenant} if send.tenant else {}),
    }
    return sha256(orjson.dumps(stored, option=orjson.OPT_SORT_KEYS)).hexdigest()
