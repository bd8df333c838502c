"""A database with row security in force, and the roles that meet it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

PASSWORD = "only-on-this-machine"
OWNER, FRONT, WORKERS = "perdure_test_owner", "perdure_test_front", "perdure_test_workers"


@dataclass(frozen=True)
class Walled:
    """The database's address as a superuser (who sees everything), and as each role."""

    url: str

    @property
    def owner(self) -> str:
        """It owns the tables and migrates them."""
        return as_role(self.url, OWNER)

    @property
    def front(self) -> str:
        """That of front doors."""
        return as_role(self.url, FRONT)

    @property
    def workers(self) -> str:
        """That of workers."""
        return as_role(self.url, WORKERS)


def as_role(url: str, role: str) -> str:
    """The same database as `role`."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}:{PASSWORD}@{host}").geturl()


def build(url: str) -> None:
    """Make the roles where they are missing, and a walled schema in an empty database, which a role of its own then owns."""
    from perdure.storage import migrate

    asyncio.run(make_roles(url))
    migrate.upgrade(as_role(url, OWNER))
    migrate.row_security_on(as_role(url, OWNER), front=FRONT, workers=WORKERS)


async def make_roles(url: str) -> None:
    """Make the roles where they are missing, and give the database to the one that is to own the tables."""
    connection = await asyncpg.connect(url)
    try:
        for role in (OWNER, FRONT, WORKERS):
            if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
                await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        await connection.execute(f'ALTER DATABASE "{urlsplit(url).path[1:]}" OWNER TO {OWNER}')
    finally:
        await connection.close()
