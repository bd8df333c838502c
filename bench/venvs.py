"""A virtual environment for each peer, made once and kept in the user's cache; never the project's own."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

CACHE = Path.home() / ".cache" / "perdure-bench"

PEERS = {
    "a2a-sdk": ("a2a-sdk[http-server,postgresql]==1.3.0", "uvicorn[standard]"),
    "fasta2a": ("fasta2a==2.1.1", "uvicorn[standard]"),
    "arq": ("arq==0.28.0", "hiredis", "uvloop"),
    "taskiq": ("taskiq", "taskiq-redis", "uvloop", "hiredis"),
    "SAQ": ("saq[redis,hiredis]", "typing_extensions", "uvloop"),
    "streaQ": ("streaq",),
    "procrastinate": ("procrastinate", "psycopg[binary,pool]"),
    "Celery": ("celery[redis]",),
}


def python_of(peer: str) -> str:
    """The interpreter of the peer's environment, which is made at the first call (up to a minute). RuntimeError with pip's last
    words when it cannot be."""
    wanted = PEERS[peer]
    name = f"{peer}-{sha256(repr((wanted, sys.version)).encode()).hexdigest()[:8]}"
    folder = CACHE / name
    if not (folder / "installed").exists():
        print(f"  installing {peer} into {folder}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *wanted)
        (folder / "installed").touch()
    return str(folder / "bin" / "python")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr[-500:]}")
    return done.stdout
