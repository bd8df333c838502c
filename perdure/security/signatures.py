"""Signatures of deliveries by the Standard Webhooks specification: HMAC-SHA256 over id, time and body, one for each secret."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

PREFIX = "whsec_"


def is_secret(text: str) -> bool:
    """`whsec_` and 24 to 64 bytes in base64."""
    try:
        size = len(b64decode(text.removeprefix(PREFIX), validate=True))
    except (Error, ValueError):
        return False
    return text.startswith(PREFIX) and 24 <= size <= 64


def headers(delivery_id: str, time: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and, with secrets, `webhook-signature` with one signature for each."""
    named = {"webhook-id": delivery_id, "webhook-timestamp": str(int(time.timestamp()))}
    if not secrets:
        return named
    signed = (Webhook(secret).sign(delivery_id, time.astimezone(UTC), body.decode()) for secret in secrets)
    return {**named, "webhook-signature": " ".join(signed)}
