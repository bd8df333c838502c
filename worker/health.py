"""Which key of Redis says that a worker of this machine lives.

arq writes one key a worker and `arq ... --check`, another process in the same container or on the same host, reads one. A key
for the whole host would hide a worker that was killed behind another that lives, and be deleted by whichever stops first. So
each worker has its own, and leaves a locked file with its process id behind; the kernel lets go of the lock when the process
ends, however it does. A check looks at a worker that left its file unlocked first: that one was killed. A start clears up.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path


def own_key(name: str) -> str:
    """The key of this process."""
    return _key(name, os.getpid())


def key_to_check(name: str) -> str:
    """The key of the worker of this host that most likely is dead; one that nobody writes when there is none."""
    found = [(_is_locked(file), file.name) for file in _files(name)]
    return _key(name, min(found)[1] if found else 0)


@contextmanager
def marked(name: str) -> Iterator[None]:
    """Leave the file of this process while inside. Without a folder to write in, a check finds nothing and says so."""
    for file in _files(name):
        if not _is_locked(file):
            file.unlink(missing_ok=True)
    mine = _folder(name) / str(os.getpid())
    try:
        mine.parent.mkdir(mode=0o700, exist_ok=True)
        with mine.open("w") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    finally:
        with suppress(OSError):
            mine.unlink(missing_ok=True)


def _key(name: str, process: object) -> str:
    return f"{name}:health:{socket.gethostname()}:{process}"


def _folder(name: str) -> Path:
    of = sha256(name.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"perdure-workers-{os.getuid()}-{of}"


def _files(name: str) -> list[Path]:
    try:
        return list(_folder(name).iterdir())
    except OSError:
        return []


def _is_locked(file: Path) -> bool:
    try:
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
