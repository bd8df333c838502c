"""A setting becomes an adapter, and nothing is imported that was not chosen."""

from __future__ import annotations

import sys

import pytest
from pydantic import SecretStr

from perdure.backends import database_url, make_queue, make_storage
from perdure.errors import ConfigError
from perdure.settings import Settings
from tests.support.processes import ROOT, finished


def test_adapters_are_those_of_the_settings() -> None:
    fleet = Settings(storage_type="postgres", queue_type="arq", database_url=SecretStr("postgresql://h/d"))
    made = (
        make_storage(Settings()),
        make_queue(Settings()),
        make_storage(fleet),
        make_queue(fleet),
    )
    assert [type(adapter).__name__ for adapter in made] == [
        "MemoryStorage",
        "InlineQueue",
        "PostgresStorage",
        "ArqQueue",
    ]


def test_workers_cannot_see_memory() -> None:
    with pytest.raises(ConfigError, match="needs STORAGE_TYPE=postgres"):
        make_queue(Settings(queue_type="arq"))


def test_migrations_may_take_another_way() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://pooled/d"),
        migrations_database_url=SecretStr("postgresql://direct/d"),
    )
    assert database_url(settings) == "postgresql://pooled/d"
    assert database_url(settings, migrations=True) == "postgresql://direct/d"
    with pytest.raises(ConfigError, match="set DATABASE_URL"):
        database_url(Settings())


def test_memory_pays_for_neither_sqlalchemy_nor_redis() -> None:
    code = (
        "import sys; from perdure.backends import *; from perdure.settings import Settings;"
        "make_storage(Settings()); make_queue(Settings());"
        "print([name for name in ('sqlalchemy', 'asyncpg', 'alembic', 'redis', 'arq') if name in sys.modules])"
    )
    assert finished([sys.executable, "-c", code], cwd=ROOT).stdout == "[]\n"
