"""Workers' signs of life, in memory."""

from __future__ import annotations

from datetime import timedelta

from perdure.storage.memory.base import Locked
from perdure.storage.memory.operators import Sign
from perdure.storage.operators import WorkerBeat


class Workers(Locked):
    """See the port."""

    _workers: dict[str, Sign]

    async def beat(self, beat: WorkerBeat) -> bool:
        with self._lock:
            now = self._ledger.now()
            known = self._workers.get(beat.worker_id)
            self._workers[beat.worker_id] = Sign(
                beat, now, known.started if known else now, known.asked_to_drain if known else False
            )
            return self._workers[beat.worker_id].asked_to_drain

    async def forget_worker(self, worker_id: str) -> None:
        with self._lock:
            self._workers.pop(worker_id, None)

    async def workers_alive(self, within: float, *, agent: str | None = None) -> int:
        with self._lock:
            since = self._ledger.now() - timedelta(seconds=within)
            alive = [
                sign.beat for sign in self._workers.values() if sign.time >= since and not sign.beat.draining
            ]
            return sum(agent is None or agent in beat.agents for beat in alive)
