"""A few hundred bad requests of each kind; `make fuzz` sends ten thousand."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from tests.fuzz.consistency import WRONG, wrong
from tests.fuzz.run import run


@pytest.mark.timeout(120)
def test_bad_requests_are_answered_in_time_and_leave_nothing_half_done(
    tmp_path: Path, database_url: str
) -> None:
    report = run(tmp_path, database_url, inputs=300, number=1)
    assert not report.defects, report
    assert report.rest >= 150
    assert report.rpc >= 150


BREAKS = {
    "a task without its first event, or whose first event is no message": "DELETE FROM task_events WHERE seq = 1",
    "a gap in the numbers of a task's events": "UPDATE task_events SET seq = 4, first_seq = 4 WHERE seq = 2",
    "a task whose last number is not that of its last event": "UPDATE tasks SET last_seq = 9",
    "a task whose status is no status": "UPDATE tasks SET status_seq = 1",
    "a context that counts other tasks than those that wait in it": "UPDATE contexts SET waiting = 2",
    "a context whose slot is that of a task that nobody holds": "UPDATE contexts SET running_task = gen_random_uuid()",
    "a context with nothing in it": "INSERT INTO contexts (owner, context_id) VALUES ('me', 'empty')",
    "a limit that counts other tasks than those that run under it": (
        "INSERT INTO concurrency_limits (limit_key, max_running, running) VALUES ('k', 2, 1)"
    ),
    "a task that was begun and is held by nobody": (
        "UPDATE tasks SET state = 'working', lease_token = gen_random_uuid(), lease_holder = 'w', "
        "lease_until = clock_timestamp() - interval '1 hour'"
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_in_a_database_is_found(what: str, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            """
            INSERT INTO contexts (owner, context_id, waiting) VALUES ('me', 'talk', 0);
            INSERT INTO tasks (task_id, owner, context_id, position, state, last_seq, message_seq, read_seq, status_seq)
            VALUES ('00000000-0000-0000-0000-000000000001', 'me', 'talk', 1, 'completed', 3, 1, 1, 3);
            INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
            SELECT '00000000-0000-0000-0000-000000000001', seq, seq, kind, 0, '{}'
              FROM (VALUES (1, 'message'), (2, 'status'), (3, 'status')) e (seq, kind);
            """
        )
        assert await wrong(database_url) == {}
        await connection.execute(BREAKS[what])
        assert what in await wrong(database_url)
    finally:
        await connection.close()
