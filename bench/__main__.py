"""`python -m bench`: all of it (half an hour); `--quick`: the headline ratios, in two minutes; `--only NAME`: some."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from .ours import services
from .plan import MEASUREMENTS, Measurement, Scale
from .plots import plot
from .report import save, table, write_page
from .results import Results

JSON = Path("build/bench.json")


def main() -> None:
    """Measure, tell, save."""
    asked = _parser().parse_args()
    if asked.plot:
        for path in plot(asked.json, asked.plot):
            print(path)
        return
    if asked.page:
        write_page(asked.page, asked.json)
        return
    chosen = [
        each
        for each in MEASUREMENTS
        if (each.name in asked.only if asked.only else each.quick or not asked.quick)
    ]
    results = Results()
    asyncio.run(_run(results, chosen, Scale(asked.quick), asked.json))
    print(table(results))
    print(f"\n{asked.json} has it all", file=sys.stderr)


async def _run(results: Results, chosen: list[Measurement], scale: Scale, path: Path) -> None:
    begin = time.monotonic()
    with services() as running:
        for number, each in enumerate(chosen, 1):
            seconds = time.monotonic() - begin
            print(
                f"[{number}/{len(chosen)}] {seconds:4.0f} s  {each.name}: {each.what}",
                file=sys.stderr,
                flush=True,
            )
            try:
                await each.run(results, running, scale)
            except Exception as error:  # said at the end; the others go on
                results.failures.append(f"{each.name}: {error!r}")
            save(results, path)


def _parser() -> argparse.ArgumentParser:
    names = [each.name for each in MEASUREMENTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the headline ratios, once")
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="these, and nothing else")
    parser.add_argument("--json", type=Path, default=JSON, help=f"where the results go (default: {JSON})")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw what an earlier run has left")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write its tables into a page")
    return parser


if __name__ == "__main__":
    main()
