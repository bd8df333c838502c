"""Database addresses: what Heroku, Neon, SQLAlchemy and people write, as asyncpg wants it. The one place for it."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from perdure.errors import ConfigError

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_SSL_WORDS = {
    "true": "require",
    "1": "require",
    "on": "require",
    "false": "disable",
    "0": "disable",
    "off": "disable",
}


def normalised(url: str) -> str:
    """`url` as a `postgresql://` address for asyncpg.

    `postgres://` and `postgresql+asyncpg://` are taken, `ssl=` becomes `sslmode=`, `channel_binding=` (libpq's) is left out.
    `ConfigError` for anything else.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _SCHEMES:
        raise ConfigError(
            f"DATABASE_URL must look like postgresql://user:password@host:5432/name, not {parts.scheme or 'nothing'}://..."
        )
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "channel_binding":
            continue
        options["sslmode" if name == "ssl" else name] = (
            _SSL_WORDS.get(value, value) if name == "ssl" else value
        )
    try:
        _ = parts.port
    except ValueError:
        raise ConfigError("DATABASE_URL has a port that is no number") from None
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options, safe="/"), ""))


def redacted(url: str) -> str:
    """`host:port/name` of an address, without user and password: for logs and messages."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"
