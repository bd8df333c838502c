"""Each test runs in the bindings that its requirement names, in memory and over Postgres (the durable mode)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from perdure.settings import CardSettings
from perdure.storage import Storage
from perdure.tasks import ANONYMOUS
from tests.api.front import Front, echo, opened_front
from tests.conftest import DatabaseServer
from tests.support.keys import pem
from tests.support.storages import opened_memory, opened_postgres

from .marks import Missing, Requirement
from .speakers import SOMEBODY_ELSE, SPEAKERS, Speaker


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "requirement(Requirement): what the specification says",
        "not_yet(Missing): in which bindings it does not hold",
        "agent(config): the agent behind the front door",
        "signed(kind): the key that its card is signed with",
    ):
        config.addinivalue_line("markers", mark)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "speaker" in metafunc.fixturenames:
        metafunc.parametrize("binding", _bindings(metafunc.definition))
    if "storage" in metafunc.fixturenames:
        metafunc.parametrize("mode", ["memory", "durable"])


def _bindings(item: pytest.Function) -> list[str]:
    named = [binding for mark in item.iter_markers("requirement") for binding in _of(mark).bindings]
    return [binding for binding in SPEAKERS if binding in named]


def _of(mark: pytest.Mark) -> Requirement:
    requirement: Requirement = mark.args[0]
    return requirement


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("not_yet"):
            missing: Missing = mark.args[0]
            callspec = getattr(item, "callspec", None)
            binding = callspec.params.get("binding") if callspec else None
            if binding is None or binding in missing.bindings:
                item.add_marker(pytest.mark.xfail(reason=missing.reason, strict=True))


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def durable(database_server: DatabaseServer) -> AsyncIterator[Storage]:
    """One storage over Postgres for all tests, since to open one takes longer than most of them."""
    for url in database_server.lend(template=database_server.migrated):
        async with opened_postgres(url) as opened:
            yield opened.storage


@pytest.fixture
def shared(request: pytest.FixtureRequest, mode: str) -> Storage | None:
    """The storage over Postgres, or None for one in memory, which starts no server."""
    storage: Storage | None = request.getfixturevalue("durable") if mode == "durable" else None
    return storage


@pytest_asyncio.fixture(loop_scope="session")
async def storage(shared: Storage | None) -> AsyncIterator[Storage]:
    """An empty storage of this mode."""
    if shared is None:
        async with opened_memory() as opened:
            yield opened.storage
    else:
        yield shared
        for owner in (ANONYMOUS, SOMEBODY_ELSE):
            for context in (await shared.list_contexts(owner, page_size=100)).contexts:
                await shared.clear_context(owner, context.context_id)


@pytest_asyncio.fixture(loop_scope="session")
async def front(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Front]:
    """A front door whose agent does nothing by itself: the test plays it. Push is on, and any media type is taken."""
    mark = request.node.get_closest_marker("agent")
    config = mark.args[0] if mark else {"capabilities": {"push_notifications": True}}
    config = {"default_input_modes": ["*/*"], **config}
    key = request.node.get_closest_marker("signed")
    signing = CardSettings(signing_key=SecretStr(pem(key.args[0])), key_id="key-1") if key else CardSettings()
    async with opened_front(config, storage=storage, card=signing) as front:
        yield front


@pytest.fixture
def speaker(front: Front, binding: str) -> Speaker:
    """A client."""
    return SPEAKERS[binding](front)


@pytest.fixture
def echoing(speaker: Speaker) -> Speaker:
    """A client whose agent repeats what it hears, and asks back when it is asked."""
    speaker.front.plays(echo)
    return speaker
