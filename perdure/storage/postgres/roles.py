"""Whether the roles of a process fit the database's row security: asked once when the storage opens.

A front door whose role sees everything would have no second wall, and one whose role sees nothing would answer that no task
exists. Neither may start.
"""

from __future__ import annotations

from typing import Any

from perdure.errors import ConfigError
from perdure.storage.postgres.database import Database

ON = "STORAGE__ROW_SECURITY is on"
HOW = "see docs/security.md, or run `perdure migrate row-security --help`"

# row_security_active: in force, and neither a superuser nor a role with BYPASSRLS
_ROLE = """
SELECT current_user AS name, row_security_active(c.oid) AS walled, c.relrowsecurity AS enabled,
       pg_has_role(current_user, c.relowner, 'MEMBER') AS owns,
       EXISTS (SELECT FROM pg_policy p, unnest(p.polroles) role
                WHERE p.polrelid = c.oid AND p.polname = 'perdure_workers'
                  AND pg_has_role(current_user, role, 'MEMBER')) AS passes
  FROM pg_class c WHERE c.oid = 'tasks'::regclass
"""


async def require_roles(callers: Database, workers: Database | None) -> None:
    """`ConfigError` where a role sees more than it may, or less than it needs. `workers`: None when there is no other role."""
    role = await _role(callers)
    if callers.row_security:
        _require_wall(role)
    else:
        _require_sight(role, "set STORAGE__ROW_SECURITY=true, or WORKER_DATABASE_URL for workers")
    if workers is not None:
        _require_sight(await _role(workers), "WORKER_DATABASE_URL needs the role given as --workers")


def _require_wall(role: Any) -> None:
    if not role["enabled"]:
        raise ConfigError(
            f"{ON}, and the database has none yet: run `perdure migrate row-security on`; {HOW}"
        )
    if not role["walled"] or role["owns"] or role["passes"]:
        why = "owns the tables or is one of the workers" if role["walled"] else "bypasses it"
        raise ConfigError(
            f"{ON}, and the role {role['name']} of DATABASE_URL {why}: front doors need their own; {HOW}"
        )


def _require_sight(role: Any, what: str) -> None:
    if role["walled"] and not role["passes"]:
        raise ConfigError(
            f"the database has row security, and the role {role['name']} would see no task: {what}; {HOW}"
        )


async def _role(database: Database) -> Any:
    async def look(connection: Any, again: bool) -> Any:
        return await connection.fetchrow(_ROLE)

    return await database.run(look)
