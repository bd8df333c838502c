"""Row-level security, on and off: who may use the tables, and who sees the rows of all owners.

Three roles: the one that migrates owns the tables; front doors see one owner's rows at a time; workers see all. Everything here
runs on a connection of the first one, in one transaction, and may be run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from perdure.errors import ConfigError
from perdure.storage.schema import FUNCTIONS, OWNERLESS, VERSION_TABLE, WALLED

# What a front door may do with tables that are nobody's: it says what its agent's limits are, and counts the workers.
_OF_FRONT_DOORS = {"workers": "SELECT", "concurrency_limits": "SELECT, INSERT, UPDATE"}
_READ_BY_FUNCTIONS = ("tasks", "api_keys")
_ALL = "SELECT, INSERT, UPDATE, DELETE"


def switch_on(connection: sa.Connection, *, front: str, workers: str) -> None:
    """Put the policies into force for everybody but `workers`. `ConfigError` for roles that cannot be meant."""
    owner = _value(connection, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'tasks'::regclass")
    _require_roles(connection, front, workers, str(owner))
    _apply(connection, [front], [workers])


def switch_off(connection: sa.Connection) -> None:
    """Take the policies out of force. Grants stay."""
    for table in _walled(connection):
        _run(connection, f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
        for policy in ("perdure_workers", "perdure_functions"):
            _run(connection, f"DROP POLICY IF EXISTS {policy} ON {table}")


@contextmanager
def lowered(connection: sa.Connection) -> Iterator[None]:
    """For a migration, whose own statements would see no rows either; and tables that it makes are walled afterwards."""
    fronts, workers = _roles(connection)
    if not workers:
        yield
        return
    for table in _walled(connection):
        _run(connection, f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    yield
    if _value(connection, "SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('tasks')"):
        _apply(connection, fronts, workers)


def is_on(connection: sa.Connection) -> bool:
    """Whether the policies are in force."""
    return bool(_roles(connection)[1])


# ---------------------------------------------------------------------- the statements


def _apply(connection: sa.Connection, fronts: list[str], workers: list[str]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    front_list, worker_list = ", ".join(map(quote, fronts)), ", ".join(map(quote, workers))
    everybody = ", ".join(map(quote, [*fronts, *workers]))
    schema = quote(str(_value(connection, "SELECT current_schema()")))
    _run(connection, f"GRANT USAGE ON SCHEMA {schema} TO {everybody}")
    for table in _walled(connection):
        _run(connection, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        _run(connection, f"DROP POLICY IF EXISTS perdure_workers ON {table}")
        _run(connection, f"CREATE POLICY perdure_workers ON {table} TO {worker_list} USING (true)")
        _run(connection, f"GRANT {_ALL} ON {table} TO {everybody}")
    for table in _there(connection, OWNERLESS):
        if front_list and table in _OF_FRONT_DOORS:
            _run(connection, f"GRANT {_OF_FRONT_DOORS[table]} ON {table} TO {front_list}")
        _run(connection, f"GRANT {_ALL} ON {table} TO {worker_list}")
    _run(connection, f"GRANT SELECT ON {VERSION_TABLE} TO {everybody}")
    # The functions run with the rights of the tables' owner, who is walled as well unless somebody else has called them.
    owner = quote(
        str(
            _value(connection, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'tasks'::regclass")
        )
    )
    for table in _READ_BY_FUNCTIONS:
        _run(connection, f"DROP POLICY IF EXISTS perdure_functions ON {table}")
        _run(
            connection,
            f"CREATE POLICY perdure_functions ON {table} FOR SELECT TO {owner} USING (current_user <> session_user)",
        )
    for function in FUNCTIONS:
        if not _value(connection, "SELECT to_regprocedure(:name)::oid", name=function):
            continue  # an older or a newer schema has another
        _run(connection, f"GRANT EXECUTE ON FUNCTION {function} TO {everybody}")


def _walled(connection: sa.Connection) -> list[str]:
    return _there(connection, [table.name for table in WALLED])


def _there(connection: sa.Connection, tables: Iterable[str]) -> list[str]:
    """Without those that the schema does not have yet, or any more."""
    there = set(sa.inspect(connection).get_table_names())
    return [table for table in tables if table in there]


def _roles(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """The front doors' and the workers' roles; both empty when row security is off, or the schema is older."""
    workers = connection.scalars(
        sa.text("""
            SELECT pg_get_userbyid(role) FROM pg_policy p, unnest(p.polroles) role
             WHERE p.polname = 'perdure_workers' AND p.polrelid = to_regclass('tasks')""")
    ).all()
    granted = connection.scalars(
        sa.text("""
            SELECT DISTINCT pg_get_userbyid(a.grantee) FROM pg_class c, aclexplode(c.relacl) a
             WHERE c.oid = to_regclass('tasks') AND a.privilege_type = 'INSERT' AND a.grantee NOT IN (0, c.relowner)""")
    ).all()
    return ([role for role in granted if role not in workers] if workers else []), list(workers)


def _require_roles(connection: sa.Connection, front: str, workers: str, owner: str) -> None:
    for role in (front, workers):
        there = _value(connection, "SELECT count(*) FROM pg_roles WHERE rolname = :role", role=role)
        if not there:
            raise ConfigError(
                f"there is no role {role}: create it first, CREATE ROLE {role} LOGIN PASSWORD '...'"
            )
    bypasses = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = :role"
    if _value(connection, bypasses, role=front):
        raise ConfigError(f"the role {front} bypasses row security: front doors need one that does not")
    member = "SELECT pg_has_role(:role, :other, 'MEMBER')"
    for other in (workers, owner):
        if _value(connection, member, role=front, other=other):
            raise ConfigError(
                f"the role {front} has the rights of {other}: front doors need a role of their own"
            )


def _value(connection: sa.Connection, statement: str, **parameters: str) -> object:
    return connection.scalar(sa.text(statement), parameters)


def _run(connection: sa.Connection, statement: str) -> None:
    connection.execute(sa.text(statement.replace(":", r"\:")))
