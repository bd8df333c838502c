"""`perdure keys`: API keys in the database. A secret is printed once, by the command that made it, and never again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.forms import iso, seconds, table
from perdure.cli.operator import fail, on_storage
from perdure.cli.options import EXIT_CODES, JsonOption

if TYPE_CHECKING:
    from perdure.storage import Storage
    from perdure.storage.keys import ApiKey

keys = typer.Typer(
    name="keys",
    help="Make, list, rotate and revoke API keys. Needs DATABASE_URL; front doors take them with AUTH__API_KEYS=true.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

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
    from perdure.security.keys import mint

    minted, lifetime = mint(), seconds(expires, "--expires")
    key = on_storage(lambda storage: _add(storage, minted, owner, scopes, name, lifetime))
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
    heads = ("KEY", "OWNER", "SCOPES", "STATE", "EXPIRES", "LAST USED", "NAME")
    print(table(heads, [_row(key) for key in found]))


@keys.command(epilog=EXIT_CODES)
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        str, typer.Option(help="For how long the present secret stays good, as in 24h; 0 ends it at once.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Give a key another secret, and print it: this once. The present one stays good for a while, one before it does not."""
    from perdure.security.keys import mint

    minted, both = mint(key_id), seconds(overlap, "--overlap")
    key = on_storage(lambda storage: storage.rotate_key(key_id, minted.digest, overlap=both))
    if key is None:
        fail(f"there is no active key {key_id}")
    _show_secret(key, minted.text, as_json)


@keys.command(epilog=EXIT_CODES)
def revoke(key_id: KeyArgument, as_json: JsonOption = False) -> None:
    """End a key, with all its secrets. Front doors remember keys for AUTH__CACHE seconds."""
    key = on_storage(lambda storage: storage.revoke_key(key_id))
    if key is None:
        fail(f"there is no key {key_id}")
    print(json.dumps(_as_json(key), indent=2) if as_json else f"key {key_id} of {key.owner} is revoked")


# ---------------------------------------------------------------------- what they share


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
        "createdAt": iso(key.created_at),
        "expiresAt": iso(key.expires_at),
        "revokedAt": iso(key.revoked_at),
        "overlapUntil": iso(key.overlap_until),
        "lastUsedAt": iso(key.last_used_at),
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


def _minute(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M") if time else ""
