"""`perdure card`: the agent card as it would be served, and whether one that is served is signed by whom it should be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jwt import PyJWK

    from perdure.settings import Settings

CARD_PATH = "/.well-known/agent-card.json"
SECONDS = 10
Json = dict[str, Any]


def card(
    agent: Annotated[
        str | None,
        typer.Argument(
            help="A file's path or module:attribute. Default: the setting AGENT.", show_default=False
        ),
    ] = None,
    extended: Annotated[bool, typer.Option("--extended", help="The card for authenticated callers.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say what callers would miss in it, instead of printing it.")
    ] = False,
    verify: Annotated[
        str, typer.Option(metavar="URL", help="Verify the signature of the card there.", show_default=False)
    ] = "",
    keys: Annotated[
        str,
        typer.Option(
            help="For --verify: whom to trust, as a file or an address of a JWKS or a public key in PEM. "
            "Default: the keys that the card's own host has.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Print the agent's card as `perdure serve` would serve it. Signed, where CARD__SIGNING_KEY is set."""
    from perdure.launch import one_line_errors

    with one_line_errors():
        if verify:
            _verify(verify, keys)
            return
        from perdure.agents import chosen
        from perdure.settings import load_settings

        settings = chosen(load_settings(), [agent] if agent else ())
        shown = _made(settings, extended=extended)
        if check:
            _check(shown)
        else:
            print(json.dumps(shown, indent=2, ensure_ascii=False))


def _made(settings: Settings, *, extended: bool) -> Json:
    from perdure.agents import load_agents
    from perdure.cards.signatures import read_key
    from perdure.errors import ConfigError
    from perdure.launch import ours, served

    agents = load_agents(settings)
    if len(agents) > 1:
        raise ConfigError(f"whose card? name one of the agents: {', '.join(agents)}")
    ((name, agent),) = agents.items()
    placed, also = ours("api.several").placed(name, served(agent, settings))
    cards = ours("api.cards").cards_of(placed, read_key(settings.card), also)
    found: Json | None = cards.extended.document if extended else cards.public
    if found is None:
        raise ConfigError(
            "this agent has no extended card: it needs capabilities.extended_agent_card and extended_card"
        )
    return found


# ---------------------------------------------------------------------- what could be better


def _check(shown: Json) -> None:
    """The config itself has been checked when the agent was made."""
    signed = f"signed ({_key_ids(shown)})" if "signatures" in shown else "not signed"
    print(f"{shown['name']} {shown['version']}: skills: {len(shown['skills'])}, {signed}")
    for problem in _problems(shown):
        print(f"! {problem}")


def _problems(shown: Json) -> list[str]:
    """What a caller would stumble over, or miss."""
    found = []
    if shown["description"] == shown["name"]:
        found.append("description is missing: callers choose agents by it")
    if not shown["skills"]:
        found.append("there are no skills: callers cannot see what the agent can do")
    found += [
        f"the skill {skill['id']} has no description"
        for skill in shown["skills"]
        if skill["description"] == skill["name"]
    ]
    url = shown["url"]
    if url.startswith("http://"):
        found.append(f"{url} is no https:// address: set deployment.url to the one that callers know")
    return found


def _key_ids(shown: Json) -> str:
    from perdure.cards.signatures import headers_of

    return ", ".join(dict.fromkeys(f"{each.get('alg')}, {each.get('kid')}" for each in headers_of(shown)))


# ---------------------------------------------------------------------- somebody's card


def _verify(url: str, keys: str) -> None:
    from perdure.cards.signatures import NotVerified, verified

    address = url if url.endswith(".json") else url.rstrip("/") + CARD_PATH
    shown = _fetched(address)
    trusted = _trusted(shown, address, keys)
    try:
        key_id = verified(shown, trusted)
    except NotVerified as error:
        print(f"perdure: {address}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{shown.get('name')}: signed with the key {key_id}")


def _fetched(address: str) -> Json:
    from perdure.errors import ConfigError

    try:
        found = json.loads(_text(address))
    except ValueError:
        raise ConfigError(f"{address} is no agent card") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{address} is no agent card")
    return found


def _trusted(shown: Json, address: str, keys: str) -> list[PyJWK]:
    """The keys that were named; else those of the card's own host. Where the card alone says is nobody to trust: whoever changed
    it would have written there whose keys to take."""
    from perdure.cards.signatures import JWKS_PATH, headers_of, read_public_keys
    from perdure.errors import ConfigError

    if keys:
        return read_public_keys(_text(keys) if "://" in keys else _file(Path(keys)))
    host = _origin(address)
    told = {str(header["jku"]) for header in headers_of(shown) if header.get("jku")}
    if elsewhere := sorted(place for place in told if _origin(place) != host):
        raise ConfigError(
            f"the card says that its keys are at {elsewhere[0]}, on another host: if you trust it, give --keys {elsewhere[0]}"
        )
    return read_public_keys(_text(next(iter(told), host + JWKS_PATH)))


def _file(path: Path) -> str:
    from perdure.errors import ConfigError

    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the keys cannot be read: {error}") from None


def _text(address: str) -> str:
    import httpx

    from perdure.launch import one_line

    try:
        answer = httpx.get(address, timeout=SECONDS)
        return answer.raise_for_status().text
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        one_line(RuntimeError(f"{address}: {error}"))
        raise SystemExit(1) from None


def _origin(url: str) -> str:
    import httpx

    found = httpx.URL(url)
    return f"{found.scheme}://{found.netloc.decode()}"
