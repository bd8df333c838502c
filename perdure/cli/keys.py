"""`perdure keys`: API keys in the database. A secret is printed once, by the command that made it, and never again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perdure.storage import Storage
    from perdure.storage.keys import ApiKey

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."

keys = typer.Typer(
    name="keys",
    help="Make, list, rotate and revoke API keys. Needs DATABASE_URL; front doors take them with AUTH__API_KEYS=true.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
KeyArgument = Annotated[str, typer.Argument(help="The id of a key, see `perdure keys list`.")]


@keys.command(epilog=EXIT_CODES)
def create(
    owner: Annotated[str, typer.Option(help="Whose key it is: owners see their own tasks only.")],
    scopes: Annotated[
        str, typer.Option(help="What it may do: read, write, operate, with commas between.")
    ] = "read,write",
    name: Annotated[str, typer.Option(help="A note for people: where it is used.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="For how long it is good, as in 90d, 12h, 30m.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and print it: this once."""
    from perdure.keys import mint

    seconds = None if expires is None else _seconds(expires, "--expires")
    minted = mint()
    key = on_storage(lambda storage: _add(storage, minted, owner, scopes, name, seconds))
    _show_secret(key, minted.text, as_json)


async def _add(
    storage: Storage, minted: Any, owner: str, scopes: str, name: str, expires: float | None
) -> ApiKey:
    from perdure.errors import ConfigError
    from perdure.settings import scopes_in
    from perdure.storage.keys import NewKey

    try:
        found = scopes_in(scopes)
        if not owner.strip() or not found:
            raise ConfigError("a key needs an owner and at least one scope")
        return await storage.add_key(
            NewKey(
                key_id=minted.key_id,
                owner=owner,
                scopes=found,
                digest=minted.digest,
                name=name,
                expires=expires,
            )
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


@keys.command("list", epilog=EXIT_CODES)
def list_keys(as_json: JsonOption = False) -> None:
    """Print all keys, without their secrets."""
    found = on_storage(lambda storage: storage.list_keys())
    if as_json:
        print(json.dumps([_as_json(key) for key in found], indent=2))
        return
    rows = [("KEY", "OWNER", "SCOPES", "STATE", "EXPIRES", "LAST USED", "NAME"), *map(_row, found)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command(epilog=EXIT_CODES)
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        str, typer.Option(help="For how long the present secret stays good, as in 24h; 0 ends it at once.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Give a key another secret, and print it: this once. The present one stays good for a while, one before it does not."""
    from perdure.keys import mint

    minted, seconds = mint(key_id), _seconds(overlap, "--overlap")
    key = on_storage(lambda storage: storage.rotate_key(key_id, minted.digest, overlap=seconds))
    if key is None:
        _fail(f"there is no active key {key_id}")
    _show_secret(key, minted.text, as_json)


@keys.command(epilog=EXIT_CODES)
def revoke(key_id: KeyArgument, as_json: JsonOption = False) -> None:
    """End a key, with all its secrets. Front doors remember keys for AUTH__CACHE seconds."""
    key = on_storage(lambda storage: storage.revoke_key(key_id))
    if key is None:
        _fail(f"there is no key {key_id}")
    print(json.dumps(_as_json(key), indent=2) if as_json else f"key {key_id} of {key.owner} is revoked")


# ---------------------------------------------------------------------- what they share


def on_storage(work: Callable[[Storage], Awaitable[Any]]) -> Any:
    """What `work` does on the open database of the settings; the process ends with one line where it cannot."""
    from perdure import logs
    from perdure.backends import make_storage
    from perdure.launch import one_line_errors
    from perdure.settings import load_settings

    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        storage = make_storage(settings, worker=True)  # it is about all owners
        try:
            await storage.open()
            yield storage
        finally:
            await storage.close()

    async def run() -> Any:
        async with opened() as storage:
            return await work(storage)

    with one_line_errors():
        settings = load_settings(storage_type="postgres")
        logs.set_up(
            settings.log.model_copy(update={"level": "error"})
        )  # it may migrate: that is not what was asked
        return asyncio.run(run())


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: str, option: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no duration: write 90d, 12h, 30m or seconds", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]]


def _fail(text: str) -> None:
    from perdure.errors import ConfigError
    from perdure.launch import one_line

    one_line(ConfigError(text))
    raise SystemExit(1)


def _show_secret(key: ApiKey, text: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**_as_json(key), "key": text}, indent=2))
        return
    print(text)
    # stderr: `KEY=$(perdure keys create ...)` gets the key alone.
    typer.echo(f"This is the key of {key.owner} ({', '.join(key.scopes)}). It is not shown again.", err=True)


def _as_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "owner": key.owner,
        "name": key.name,
        "scopes": list(key.scopes),
        "state": key.state.value,
        "createdAt": _time(key.created_at),
        "expiresAt": _time(key.expires_at),
        "revokedAt": _time(key.revoked_at),
        "overlapUntil": _time(key.overlap_until),
        "lastUsedAt": _time(key.last_used_at),
    }


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.key_id,
        key.owner,
        ",".join(key.scopes),
        _state(key),
        _minute(key.expires_at) or "never",
        _minute(key.last_used_at) or "never",
        key.name,
    )


def _state(key: ApiKey) -> str:
    """`rotating` while an older secret is good beside the newest."""
    rotating = key.overlap_until is not None and key.overlap_until > datetime.now(UTC)
    return "rotating" if rotating and key.state.value == "active" else key.state.value


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _minute(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M") if time else ""
