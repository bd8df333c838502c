"""`make profile`: flame graphs of a front door and a worker under load, by py-spy, which needs the right to look into processes
(root, or ptrace)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from .dialects import V1
from .load import flood
from .ours import services, stack
from .processes import Process

SECONDS = 10
PY_SPY = str(Path(sys.executable).parent / "py-spy")


async def _recorded(name: str, process: Process) -> str:
    path = Path("build") / f"profile-{name}.svg"
    path.parent.mkdir(exist_ok=True)
    how = ("--duration", str(SECONDS), "--rate", "200", "--output", str(path), "--pid", str(process.pid))
    recorder = await asyncio.create_subprocess_exec(PY_SPY, "record", *how)
    if await recorder.wait():
        raise SystemExit(f"py-spy could not look into process {process.pid}")
    return str(path)


async def main() -> None:
    """Load for as long as it is looked at."""
    with services() as running:
        async with stack(running) as made:
            with made.front_door() as (door, url), made.worker() as worker:
                looking = asyncio.gather(_recorded("front-door", door), _recorded("worker", worker))
                while not looking.done():
                    await flood(url, V1, clients=64, tasks=1000)
                print(*await looking, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
