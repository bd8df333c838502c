"""`python -m tests.chaos`: see `--help` and docs/chaos.md. Exit codes: 0 no violations, 1 violations, 2 wrong usage."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.fleet import MissingTool, faketime
from tests.chaos.history import load
from tests.chaos.run import Plan, run

TASKS_A_SECOND = 9.0
SECONDS_A_FAULT = 2.6


def main() -> int:
    """Run it, or judge a kept run again."""
    wanted = _arguments().parse_args()
    if wanted.check is not None:
        verdict = check(load(wanted.check))
        for violation in verdict.violations:
            print(f"VIOLATION {violation.rule}: {violation.task} {violation.what}")
        print(
            f"{verdict.tasks} tasks, {len(verdict.violations)} violations, longest standstill {verdict.stood_still:.1f} s"
        )
        return 1 if verdict.violations else 0
    seed = wanted.seed if wanted.seed is not None else int(time.time())
    plan = Plan(
        seed=seed,
        tasks=wanted.tasks,
        faults=wanted.faults,
        seconds=max(wanted.tasks / TASKS_A_SECOND, wanted.faults * SECONDS_A_FAULT),
        settling=60.0,
        keys=wanted.keys == "on",
    )
    try:
        faketime()
    except MissingTool as missing:
        print(f"make chaos: {missing}", file=sys.stderr)
        return 2
    folder = (wanted.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}").absolute()
    folder.mkdir(parents=True)
    print(
        f"seed {seed}: {plan.tasks} tasks, {plan.faults} faults, about {plan.seconds / 60:.0f} minutes; {folder}"
    )
    report = asyncio.run(run(plan, folder, say=True))
    (folder / "report.txt").write_text(f"{report}\n")
    print(report)
    return 1 if report.verdict.violations else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Break a fleet at random, and check."
    )
    parser.add_argument("--tasks", type=_count, default=5000)
    parser.add_argument("--faults", type=_count, default=200)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keys", choices=("on", "off"), default="on", help="send Idempotency-Key")
    parser.add_argument(
        "--folder", type=Path, default=Path("chaos-runs"), help="where the raw history is kept"
    )
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="judge a kept run again")
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
