"""run: a whole run of the chaos suite, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.local import local_services
from tests.chaos import aftermath
from tests.chaos.checker import Verdict, check
from tests.chaos.clients import Budget, Client
from tests.chaos.fleet import Fleet, faketime
from tests.chaos.history import History, Recorder, load
from tests.chaos.nemesis import Nemesis
from tests.support.proxy import Proxy

CLIENTS = 24


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of what. `seconds` is how long clients and nemesis have, `settling` how long everything may take to end then."""

    seed: int
    tasks: int
    faults: int
    seconds: float
    settling: float
    keys: bool = True


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    plan: Plan
    folder: Path
    history: History
    verdict: Verdict
    seconds: float

    def __str__(self) -> str:
        faults = Counter(fault.kind for fault in self.history.faults)
        kills = faults["kill worker"] + faults["kill front door"]
        attempts = sum(row.attempt for row in self.history.tasks.values())
        outcomes = Counter(op.outcome for op in self.history.ops)
        rows = {
            "seed": self.plan.seed,
            "seconds": round(self.seconds),
            "tasks checked": self.verdict.tasks,
            "attempts": f"{attempts}, {sum(len(row.lost) for row in self.history.tasks.values())} of them lost",
            "operations": ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())),
            "faults survived": f"{len(self.history.faults)}, {kills} of them kills",
            "longest standstill": f"{self.verdict.stood_still:.1f} s (task {self.verdict.stood_still_task})",
            "violations": len(self.verdict.violations),
            "raw history": self.folder,
        }
        lines = [f"{name:20} {value}" for name, value in rows.items()]
        lines += [f"{'':20} {count:4} x {kind}" for kind, count in sorted(faults.items())]
        lines += [f"VIOLATION {each.rule}: {each.task} {each.what}" for each in self.verdict.violations[:100]]
        return "\n".join(lines)


async def run(plan: Plan, folder: Path, *, say: bool = False) -> Report:
    """Run it; the raw history is left in `folder`. MissingTool."""
    faketime()
    begun = time.monotonic()
    async with _fleet(folder) as fleet:
        budget = Budget(plan.tasks, plan.seconds, plan.keys)
        nemesis = Nemesis(
            fleet,
            random.Random(plan.seed),  # noqa: S311 - repeatable, not secret
            faults=plan.faults,
            pause=plan.seconds / plan.faults,
        )
        async with _progress(nemesis, budget, enabled=say):
            await asyncio.gather(nemesis.run(), _clients(plan, fleet, budget))
            fleet.proxy.heal()
            await fleet.ready()
            await _settled(fleet, budget, plan.settling)
            await aftermath.read(fleet, patience=plan.settling / 2)
    history = load(folder)
    return Report(plan, folder, history, check(history), time.monotonic() - begun)


@asynccontextmanager
async def _fleet(folder: Path) -> AsyncIterator[Fleet]:
    with ExitStack() as stack:
        services = stack.enter_context(local_services(None, fsync=False))
        proxy = Proxy()
        stack.callback(proxy.stop)
        recorder = Recorder(folder)
        stack.callback(recorder.close)
        (folder / "effects.jsonl").touch()
        fleet = Fleet(folder, services, proxy, recorder)
        stack.callback(fleet.kill)
        await fleet.start()
        yield fleet
        await fleet.stop()


async def _clients(plan: Plan, fleet: Fleet, budget: Budget) -> None:
    async def one(number: int) -> None:
        async with Client(number, fleet.urls, budget, fleet.recorder, f"{plan.seed}.{number}") as client:
            await client.run()

    await asyncio.gather(*map(one, range(CLIENTS)))


async def _settled(fleet: Fleet, budget: Budget, patience: float) -> None:
    """Cancel what waits for its caller; wait until everything has ended, or for `patience` seconds."""
    until = time.monotonic() + patience
    async with Client(CLIENTS, fleet.urls, budget, fleet.recorder, "closer") as closer:
        while (left := await aftermath.restless(fleet)) and time.monotonic() < until:
            for task, state in left:
                if state == "input-required":
                    await closer.cancel(task)
            await asyncio.sleep(0.2)


@asynccontextmanager
async def _progress(nemesis: Nemesis, budget: Budget, *, enabled: bool) -> AsyncIterator[None]:
    async def show() -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(5)
            seconds = time.monotonic() - begun
            print(f"{seconds:5.0f} s  {len(budget.tags):5} messages  {nemesis.done:4} faults", flush=True)

    if not enabled:
        yield
        return
    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
