"""Reading the settings of a process, and refusing with one line what cannot work."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from perdure.errors import ConfigError
from perdure.security.egress import Refused
from perdure.settings.environment import variables
from perdure.settings.model import Settings, SettingsOfThisProcess, names
from perdure.settings.serving import AuthSettings
from perdure.settings.typing_errors import refuse_typing_errors


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process: `overrides` (None: not given), else the environment, else `.env`, else the defaults.

    Raises ConfigError with one line for a wrong value, for combinations that cannot work, and for a variable that is most
    likely one of ours with a typing error. No other variable matters.
    """
    refuse_typing_errors(variables())
    try:
        given = {name: value for name, value in overrides.items() if value is not None}
        settings = Settings(**dict(SettingsOfThisProcess(**given)))
    except ValidationError as error:
        raise ConfigError(_readable(error)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    _refuse_contradictions(settings)
    _refuse_webhook(settings)
    return settings


def given() -> dict[str, str]:
    """The settings that the environment and `.env` give, by NAME, as they stand there: secrets too."""
    known = set(names())
    return {name: value for name, (value, _) in variables().items() if name in known}


def sources() -> dict[str, str]:
    """Which settings are given, by NAME, and where: `environment` or `.env`."""
    known = set(names())
    return {name: source for name, (_, source) in variables().items() if name in known}


def _readable(error: ValidationError) -> str:
    return "; ".join(
        f"{'__'.join(str(step) for step in problem['loc']).upper()}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _refuse_contradictions(settings: Settings) -> None:
    _refuse_half_of_a_method(settings.auth)
    if settings.storage_type == "postgres":
        if settings.database_url is None:
            beside = settings.data_dir / "env"
            running = f"; for the `perdure up` that runs here: set -a; . {beside}; set +a"
            raise ConfigError(
                "STORAGE_TYPE=postgres needs DATABASE_URL=postgresql://user:password@host:5432/name"
                f"{running if beside.is_file() else ''}"
            )
        return
    remedy = "set STORAGE_TYPE=postgres as well, or remove it: in memory all tasks end with the process"
    if settings.queue_type == "arq":
        raise ConfigError(f"QUEUE_TYPE=arq is set, but STORAGE_TYPE is memory: {remedy}")
    for name in ("DATABASE_URL", "MIGRATIONS_DATABASE_URL", "WORKER_DATABASE_URL"):
        if getattr(settings, name.lower()) is None:
            continue
        raise ConfigError(f"{name} is set, but STORAGE_TYPE is memory: {remedy}")
    if settings.auth.api_keys:
        raise ConfigError(
            "AUTH__API_KEYS is set, but STORAGE_TYPE is memory, which `perdure keys` cannot reach: "
            "set AUTH__BOOTSTRAP_KEY instead, or STORAGE_TYPE=postgres as well"
        )


def _refuse_half_of_a_method(auth: AuthSettings) -> None:
    if bool(auth.jwt_issuer) != bool(auth.jwks_url):
        raise ConfigError("AUTH__JWT_ISSUER and AUTH__JWKS_URL belong together (or set AUTH__OIDC_ISSUER)")
    if (auth.jwt_issuer or auth.oidc_issuer) and not auth.jwt_audience:
        raise ConfigError(
            "AUTH__JWT_AUDIENCE is missing: without it, tokens that were made for other services would be taken"
        )
    if auth.jwt_audience and not (auth.jwt_issuer or auth.oidc_issuer):
        raise ConfigError("AUTH__JWT_AUDIENCE is set, but neither AUTH__JWT_ISSUER nor AUTH__OIDC_ISSUER")


def _refuse_webhook(settings: Settings) -> None:
    """An operator's own address is held to the same rules: an exception is made by name, in WEBHOOKS__ALLOW."""
    if settings.webhook_url is None:
        if settings.webhook_token is not None:
            raise ConfigError("WEBHOOK_TOKEN is set, but there is no WEBHOOK_URL to send it to")
        return
    try:
        settings.webhooks.egress().check_url(settings.webhook_url.get_secret_value())
    except Refused as error:
        raise ConfigError(
            f"WEBHOOK_URL {error}; what is inside your own network goes into WEBHOOKS__ALLOW"
        ) from None
