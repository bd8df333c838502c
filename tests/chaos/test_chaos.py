"""The short form of `make chaos`: every kind of fault at least once within half a minute, over a fleet of real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.nemesis import KINDS
from tests.chaos.run import Plan, run

PLAN = Plan(
    seed=20261123,
    tasks=200,
    faults=sum(times for times, _ in KINDS.values()),
    seconds=25.0,
    settling=20.0,
    keys=False,  # front doors do not read Idempotency-Key yet
)


@pytest.mark.timeout(120)
async def test_a_fleet_survives_every_kind_of_fault(tmp_path: Path) -> None:
    report = await run(PLAN, tmp_path)
    print(report)  # pytest shows it where the test has failed
    assert not report.verdict.violations
    assert {fault.kind for fault in report.history.faults} == set(KINDS)
    assert report.verdict.tasks >= PLAN.tasks / 2  # a slow machine makes fewer of them in twice the time
