"""`perdure doctor`: what is not as it should be, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import httpx

from perdure.backends import make_queue, make_storage
from perdure.errors import (
    CodeOutdated,
    ConfigError,
    PerdureError,
    QueueUnavailable,
    SchemaOutdated,
    StorageUnavailable,
)
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.tracing import complaint

SKEW = 2.0
"""Seconds that this machine's clock may differ from the database's: it is told, nothing depends on it but logs and tokens."""
MISSED_BEATS = 3


class Grade(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it is, and what to do where it is not well."""

    check: str
    grade: Grade
    text: str
    remedy: str = ""


async def examine(settings: Settings, *, url: str = "") -> AsyncIterator[Finding]:
    """All checks, one after the other; those that need what is missing are left out."""
    yield _agent(settings)
    yield _callers(settings)
    if settings.card.signing_key is not None:
        yield _card_key(settings)
    async for finding in _services(settings):
        yield finding
    if settings.traces:
        yield await _traces(settings)
    if url:
        yield await _card(url)


async def _services(settings: Settings) -> AsyncIterator[Finding]:
    if settings.storage_type == "memory":
        remedy = "for anything but trying it out: STORAGE_TYPE=postgres and DATABASE_URL"
        yield Finding("database", Grade.WARNING, "tasks are kept in memory and end with the process", remedy)
        return
    storage = make_storage(settings.model_copy(update={"storage": _impatient(settings)}))
    async with _closing(storage):
        async for finding in _database(storage):
            yield finding
    queue = make_queue(settings)
    if queue.shared:
        try:
            async for finding in _redis(queue):
                yield finding
        finally:
            await queue.close()


def _impatient(settings: Settings) -> object:
    return settings.storage.model_copy(
        update={"startup_timeout": 0.0, "retry_timeout": 0.0, "run_migrations_on_startup": False}
    )


@asynccontextmanager
async def _closing(storage: Storage) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await storage.close()


# ---------------------------------------------------------------------- the settings


def _agent(settings: Settings) -> Finding:
    if not settings.agent and not settings.agents:
        remedy = "set AGENT, or name it on the command line of serve and worker"
        return Finding("agent", Grade.WARNING, "AGENT is not set", remedy)
    from perdure.agents import load_agents

    try:
        agents = load_agents(settings)
    except PerdureError as error:
        return Finding("agent", Grade.FAILED, str(error), "correct AGENT or AGENTS, or the agent's file")
    found = [f"{agent.config.name} {agent.config.version} ({agent.kind})" for agent in agents.values()]
    return Finding("agent", Grade.OK, ", ".join(found))


def _callers(settings: Settings) -> Finding:
    auth = settings.auth
    methods = {
        "API keys": auth.api_keys or auth.bootstrap_key,
        "JWT": auth.jwt_issuer,
        "OpenID Connect": auth.oidc_issuer,
        "client certificates": auth.proxy_addresses,
    }
    if asked := [name for name, given in methods.items() if given]:
        return Finding("callers", Grade.OK, f"identified by {', '.join(asked)}")
    remedy = "set AUTH__API_KEYS=true and make a key: perdure keys create"
    return Finding("callers", Grade.WARNING, "anybody may call, and all callers are one", remedy)


def _card_key(settings: Settings) -> Finding:
    from perdure.cards.signatures import read_key

    try:
        key = read_key(settings.card)
    except ConfigError as error:
        return Finding("card key", Grade.FAILED, str(error), "docs/cards.md; the front door does not start")
    return Finding(
        "card key", Grade.OK, f"cards are signed with {key.algorithm}, key {key.key_id}" if key else ""
    )


# ---------------------------------------------------------------------- the services


async def _database(storage: Storage) -> AsyncIterator[Finding]:
    started = time.monotonic()
    try:
        await storage.open()
        now = await storage.check()
    except SchemaOutdated as error:
        yield Finding("database", Grade.FAILED, str(error), "perdure migrate upgrade")
        return
    except CodeOutdated as error:
        yield Finding("database", Grade.FAILED, str(error), "install the newer version here too")
        return
    except StorageUnavailable as error:
        remedy = "start it, or correct DATABASE_URL; nothing is lost meanwhile, and nothing is accepted"
        yield Finding("database", Grade.FAILED, str(error), remedy)
        return
    except ConfigError as error:  # a role that does not fit the database's row security
        yield Finding("database", Grade.FAILED, str(error), "docs/security.md")
        return
    taken = time.monotonic() - started
    yield Finding("database", Grade.OK, f"answers in {taken * 1000:.0f} ms, and its schema is this version's")
    skew = abs((now - datetime.now(UTC)).total_seconds()) - taken
    if skew > SKEW:
        text = f"this machine's clock differs from the database's by {skew:.0f} s"
        yield Finding("clock", Grade.WARNING, text, "run NTP: log times and the expiry of tokens go by it")
    else:
        yield Finding("clock", Grade.OK, "as the database's")


async def _redis(queue: Queue) -> AsyncIterator[Finding]:
    try:
        await queue.check()
    except QueueUnavailable as error:
        remedy = "start it, or correct REDIS_URL; meanwhile tasks run, up to a sweep late"
        yield Finding("redis", Grade.WARNING, str(error), remedy)
        return
    policy = await queue.eviction_policy()
    if policy not in ("", "noeviction"):
        text = f"its maxmemory-policy is {policy}: when it is full it throws rings away"
        yield Finding("redis", Grade.WARNING, text, "set maxmemory-policy noeviction")
        return
    yield Finding("redis", Grade.OK, "answers" + (", and throws nothing away" if policy else ""))


async def _traces(settings: Settings) -> Finding:
    said, remedy = await complaint(settings)
    if said:
        return Finding("traces", Grade.WARNING, said, remedy)
    endpoint = settings.otel_exporter_otlp_traces_endpoint or settings.otel_exporter_otlp_endpoint
    return Finding("traces", Grade.OK, f"{endpoint or 'the collector'} takes them")


async def _card(url: str) -> Finding:
    address = f"{url.rstrip('/')}/.well-known/agent-card.json"
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(address)
            card = answer.raise_for_status().json()
            interfaces = sorted({each["url"] for each in card["supportedInterfaces"]})
            elsewhere = {_origin(each) for each in interfaces} != {_origin(url)}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        return Finding("card", Grade.FAILED, f"{address}: {error}", "start the front door, or correct --url")
    text = f"{card.get('name')} tells callers to come to {', '.join(interfaces)}"
    if elsewhere:
        remedy = "as it should be behind a proxy with a public address; otherwise correct deployment.url, or leave it out"
        return Finding("card", Grade.WARNING, f"{text}, which is not {url}", remedy)
    return Finding("card", Grade.OK, text)


def _origin(url: str) -> tuple[str, str, int | None]:
    """What has to be right to connect: scheme, host and port. This machine's names for itself are one."""
    found = httpx.URL(url)
    host = "localhost" if found.host in ("127.0.0.1", "::1") else found.host
    return found.scheme, host, found.port
