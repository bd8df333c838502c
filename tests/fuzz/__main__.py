"""`python -m tests.fuzz`: see `--help`. Exit codes: 0 no defect, 1 defects, 2 wrong usage."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from perdure.local import local_services
from perdure.storage.migrate import upgrade
from tests.fuzz.run import run


def main() -> int:
    """Run it against a front door and a Postgres of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Send bad requests to a front door."
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}: {wanted.inputs} requests")
    with local_services(None, redis=False, fsync=False) as services:
        upgrade(services.database_url)
        report = run(Path.cwd(), services.database_url, inputs=wanted.inputs, number=wanted.seed)
    print(report)
    return 1 if report.defects else 0


if __name__ == "__main__":
    sys.exit(main())
