"""The loop that empties the outbox: claim what is due, send it, record what became of it.

Many are under way at once, each in a task of its own; the storage sees to it that an endpoint has few of them and that each
line has one. A process that dies leaves its claims to lapse: they are sent again, under the same ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from structlog.contextvars import bind_contextvars

from perdure import metrics
from perdure.errors import ConfigError, StorageUnavailable
from perdure.ids import new_token
from perdure.owners import caller_of
from perdure.security.egress import Refused
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.storage.webhooks import Breaker, ClaimedDelivery, DeliveryAttempt
from perdure.tracing import headers as trace_headers
from perdure.tracing import spans

from .client import Answer, Client, NoAnswer
from .request import body, headers, receiver
from .verdict import blamed, verdict

log = structlog.get_logger(__name__)

MARGIN = 15.0
"""Seconds that a claim lasts beyond the time for an answer: to read what is told, and to record what became of it."""
BATCH = 50
PATIENCE = 0.05
"""Seconds that `look` waits for others to say the same: however many turns end, the storage is asked twenty times a second."""
HEAD = 1000
"""Characters of an answer that the log keeps."""
FORGET_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class _Found:
    """How an attempt went. `blame` as `Storage.settle_delivery` has it."""

    attempt: DeliveryAttempt
    answer: Answer | None
    blame: bool | None


class Deliveries:
    """Sends what is due while `run` runs."""

    def __init__(self, storage: Storage, settings: Settings, client: Client | None = None) -> None:
        hooks = settings.webhooks
        self._storage = storage
        self._settings = settings
        self._client = client or Client(
            hooks.egress(),
            timeout=hooks.timeout,
            max_answer_bytes=hooks.max_answer_bytes,
            proxy=hooks.proxy.get_secret_value() if hooks.proxy else None,
        )
        self._breaker = Breaker(hooks.breaker_failures, hooks.breaker_pause)
        self._under_way: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._stopping = False
        self._forgotten_at = 0.0

    def look(self) -> None:
        """Something may be due. Returns at once."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(PATIENCE, self._look)

    def _look(self) -> None:
        self._looking = None
        self._wanted.set()

    async def run(self) -> None:
        """For ever: whenever somebody says so, and every `interval` seconds unasked."""
        away = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.webhooks.interval):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._start_due()
                await self._forget()
                away = False
            except StorageUnavailable as error:
                if not away:
                    log.warning("deliveries.wait", error=str(error))
                away = True
            except ConfigError as error:
                log.error("deliveries.failed", error=str(error))
            except Exception:
                log.exception("deliveries.failed")

    async def stop(self, grace: float) -> None:
        """Start no more; let those under way end within `grace` seconds, and leave the rest to whoever claims it next."""
        self._stopping = True
        if self._under_way:
            await asyncio.wait(tuple(self._under_way), timeout=min(grace, self._settings.webhooks.timeout))
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._client.close()

    async def _start_due(self) -> None:
        hooks = self._settings.webhooks
        while not self._stopping and (room := hooks.concurrency - len(self._under_way)) > 0:
            asked = min(room, BATCH)
            claimed = await self._storage.claim_deliveries(
                new_token(),
                lease=hooks.timeout + MARGIN,
                limit=asked,
                per_endpoint=hooks.per_endpoint,
                breaker=self._breaker,
            )
            for one in claimed:
                self._under_way.add(task := asyncio.create_task(self._deliver(one)))
                task.add_done_callback(self._ended)
            if len(claimed) < asked:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wanted.set()  # the next of its line

    async def _deliver(self, claimed: ClaimedDelivery) -> None:
        bind_contextvars(  # for this task alone, which ends with it
            delivery=str(claimed.delivery_id),
            task_id=str(claimed.config.task_id),
            attempt=claimed.attempt,
            caller=caller_of(claimed.owner),
        )
        try:
            found = await self._attempt(claimed)
            if found is None:
                await self._storage.release_deliveries([claimed])
                return
            await self._settle(claimed, found)
        except StorageUnavailable as error:  # sent again when the claim has lapsed
            log.warning("delivery.not_recorded", error=str(error))
        except asyncio.CancelledError:
            with suppress(StorageUnavailable):
                await asyncio.shield(self._storage.release_deliveries([claimed]))
            raise
        except Exception:
            log.exception("delivery.broken")

    async def _attempt(self, claimed: ClaimedDelivery) -> _Found | None:
        """Send it once. None if there is nothing to tell any more."""
        to = receiver(claimed.config, self._settings)
        whole = claimed.config.version == "0.3"
        told = await self._storage.delivery_events(claimed.config.task_id, claimed.seq, whole=whole)
        if told is None:
            return None
        content = body(*told, claimed.config.version)
        started_at, start = datetime.now(UTC), time.monotonic()
        answer, error, blame = None, "", None
        if to is None:
            error = "there is no WEBHOOK_URL any more"
        else:
            named = headers(to, claimed.config.version, str(claimed.delivery_id), started_at, content)
            try:
                answer = await self._post(claimed, to.url, named, content)
                blame = blamed(answer)
            except Refused as refused:
                # blamed as a name without an address is: else its owner could tell them apart by when its breaker opens
                error, blame = f"the address {refused}", True
            except NoAnswer as failure:
                error, blame = str(failure), True
        attempt = DeliveryAttempt(
            attempt=claimed.attempt,
            started_at=started_at,
            seconds=time.monotonic() - start,
            status=answer.status if answer else None,
            error=error,
            answer=_head(answer),
        )
        return _Found(attempt, answer, blame)

    async def _post(
        self, claimed: ClaimedDelivery, url: str, named: Mapping[str, str], content: bytes
    ) -> Answer:
        with spans.delivery(claimed, url) as span:
            answer = await self._client.post(url, {**named, **trace_headers(span.context)}, content)
            span.note({"http.response.status_code": answer.status})
            if answer.status >= 400:
                span.fail(str(answer.status))
            return answer

    async def _settle(self, claimed: ClaimedDelivery, found: _Found) -> None:
        decided = verdict(
            found.answer,
            tries=claimed.tries,
            failing_for=claimed.failing_for,
            disable_after=self._settings.webhooks.disable_after,
        )
        kept = await self._storage.settle_delivery(
            claimed, found.attempt, decided, breaker=self._breaker, blame=found.blame
        )
        outcome = type(decided).__name__.lower() if kept else "lost"
        metrics.DELIVERIES.labels(outcome).inc()
        metrics.DELIVERY_SECONDS.observe(found.attempt.seconds)
        log.info(
            "delivery.attempted",
            status=found.attempt.status,
            error=found.attempt.error,
            verdict=type(decided).__name__ if kept else "claim lost",
        )

    async def _forget(self) -> None:
        """Now and then, what has been in the log for long enough."""
        if time.monotonic() - self._forgotten_at > FORGET_EVERY:
            await self._storage.forget_deliveries(older_than=self._settings.webhooks.retention)
            self._forgotten_at = time.monotonic()


def _head(answer: Answer | None) -> str:
    text = answer.body.decode("utf-8", "replace").replace("\x00", "\ufffd") if answer else ""
    return text[:HEAD]
