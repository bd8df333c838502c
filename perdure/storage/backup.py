"""Backup and restore of the database, by PostgreSQL's own pg_dump and psql.

A backup is SQL text of everything, as of one moment, taken while the servers run; a name that ends in `.gz` is compressed. It is
restored into an empty database, in one transaction: all of it or nothing. The programs are those on the PATH, or of the wheel
that `perdure[local]` brings; they must not be older than the server.
"""

from __future__ import annotations

import asyncio
import gzip
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast
from urllib.parse import unquote, urlsplit

import asyncpg

from perdure.errors import ConfigError, PerdureError, StorageUnavailable
from perdure.local.postgres import postgres_programs
from perdure.local.server import major_version
from perdure.settings import environment
from perdure.storage.dsn import normalised, redacted

_PIECE = 1 << 18


class BackupFailed(PerdureError):
    """pg_dump or psql ended with an error: its last words."""


def backup(database_url: str, file: Path, *, wrote: Callable[[int], None] = lambda size: None) -> int:
    """Write all of the database into `file`; its size in bytes. `wrote` is told how many bytes of SQL came so far.

    What is there under that name is replaced once the backup is whole. `BackupFailed`, `ConfigError`, `StorageUnavailable`.
    """
    program = _program("pg_dump", database_url)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with _opened(unfinished, file.suffix, "wb") as sink:
            _dump(program, database_url, sink, wrote)
        unfinished.replace(file)
    except OSError as error:
        raise BackupFailed(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return file.stat().st_size


def restore(database_url: str, file: Path, *, read: Callable[[int], None] = lambda size: None) -> None:
    """Load a backup into an empty database. `read` is told how many bytes of SQL went so far.

    `BackupFailed`, also for a database that is not empty; `ConfigError`, `StorageUnavailable`.
    """
    if not file.is_file():
        raise BackupFailed(f"there is no file {file}")
    program = _program("psql", database_url)
    if tables := _asked(database_url, _TABLES):
        raise BackupFailed(
            f"the database at {redacted(normalised(database_url))} is not empty (it has {tables}): restore into a new one"
        )
    options = (
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    )
    try:
        with (
            _opened(file, file.suffix, "rb") as source,
            _running(program, database_url, *options, stdin=subprocess.PIPE) as process,
        ):
            assert process.stdin is not None  # noqa: S101 -- a pipe was asked for
            done = 0
            while piece := source.read(_PIECE):
                try:
                    process.stdin.write(piece)
                except BrokenPipeError:  # psql has ended: it says why
                    break
                read(done := done + len(piece))
            _ended(process)
    except (OSError, EOFError) as error:
        raise BackupFailed(f"{file} cannot be read: {error}") from None


_TABLES = """SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
 WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'v')"""


def _dump(program: Path, database_url: str, sink: IO[bytes], wrote: Callable[[int], None]) -> None:
    with _running(program, database_url, "--no-owner", "--no-privileges", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 -- a pipe was asked for
        done = 0
        while piece := process.stdout.read(_PIECE):
            sink.write(piece)
            wrote(done := done + len(piece))
        _ended(process)


# ---------------------------------------------------------------------- the programs


def _program(name: str, database_url: str) -> Path:
    """One that is not older than the server. ConfigError says what there is."""
    server = int(_asked(database_url, "SHOW server_version_num")) // 10_000
    found = {path: major_version(str(path)) for path in _candidates(name)}
    for path, version in found.items():
        if version >= server:
            return path
    if not found:
        raise ConfigError(f"{name} is missing: install PostgreSQL's client programs, or perdure[local]")
    newest = max(found.values())
    raise ConfigError(
        f"the server is PostgreSQL {server} and the newest {name} here is {newest}, which is too old for it: "
        f"install PostgreSQL's client programs of version {server} or newer"
    )


def _candidates(name: str) -> Iterator[Path]:
    if on_path := shutil.which(name):
        yield Path(on_path)
    try:
        folder = postgres_programs()
    except ConfigError:  # the extra is not installed
        return
    if (folder / name).is_file():
        yield folder / name


def _asked(database_url: str, statement: str) -> str:
    """What the server answers, asked by way of asyncpg: any version of it will do for that."""

    async def ask() -> str:
        connection = await asyncpg.connect(normalised(database_url), timeout=10)
        try:
            return str(await connection.fetchval(statement) or "")
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        where = redacted(normalised(database_url))
        raise StorageUnavailable(f"the database at {where} does not answer: {error}") from None


@contextmanager
def _running(
    program: Path, database_url: str, *options: str, stdin: int | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, connected to the database. The password goes by the environment: others can read command lines."""
    address = urlsplit(normalised(database_url))
    user, at, host = address.netloc.rpartition("@")
    name, _, password = user.partition(":")
    without = address._replace(netloc=f"{name}{at}{host}").geturl()
    env = {**environment(), **({"PGPASSWORD": unquote(password)} if password else {})}
    with subprocess.Popen(  # noqa: S603 -- PostgreSQL's own programs
        [str(program), f"--dbname={without}", *options],
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _ended(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        why = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise BackupFailed(f"PostgreSQL's program failed: {why}")


@contextmanager
def _opened(path: Path, suffix: str, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        with gzip.open(path, mode) as zipped:
            yield cast("IO[bytes]", zipped)
    else:
        with path.open(mode) as plain:
            yield plain
