"""Documents that are made once and kept by whoever asks: with an ETag, and 304 for those who have them (RFC 9110, section 13)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

MAX_AGE = 300
"""Seconds that a document may be kept without asking. Whoever asks with the ETag sees a changed one at once."""


@dataclass(frozen=True, slots=True)
class Cached:
    """A document with what its caches need."""

    body: bytes
    media_type: str
    headers: dict[str, str]

    def answer(self, request: Request) -> Response:
        """The document, or 304 when the caller has it."""
        if _has_it(request.headers.get("If-None-Match", ""), self.headers["ETag"]):
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, headers=self.headers, media_type=self.media_type)


def cached(body: bytes, media_type: str, **headers: str) -> Cached:
    """A document as it is from now on. The ETag is that of its bytes: the same on every front door."""
    kept = {
        "ETag": f'"{sha256(body).hexdigest()[:32]}"',
        "Cache-Control": f"public, max-age={MAX_AGE}",
        "Last-Modified": format_datetime(datetime.now(UTC), usegmt=True),
    }
    return Cached(body, media_type, kept | {name.replace("_", "-"): value for name, value in headers.items()})


def _has_it(if_none_match: str, etag: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2): a proxy that compresses makes the tag weak."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
