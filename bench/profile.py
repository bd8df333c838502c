"""`make profile`: where a front door and a worker spend their time under load, by py-spy, which needs the right to look into
processes (root, or ptrace): flame graphs, and a table of shares on docs/performance.md."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from .dialects import V1
from .load import flood
from .ours import services, stack
from .processes import Process
from .report import put

SECONDS = 10
PAGE = Path("docs/performance.md")
PY_SPY = str(Path(sys.executable).parent / "py-spy")

AREAS = {
    "HTTP: uvicorn, bodies, slow readers": ("uvicorn/", "api/connection.py", "api/limits.py"),
    "the way to the endpoint: Starlette, who calls": (
        "starlette/",
        "api/auth/",
        "api/own_port.py",
        "api/traced.py",
    ),
    "reading requests": (
        "api/wire/",
        "api/jsonrpc.py",
        "pydantic/",
        "api/media_types.py",
        "api/extensions.py",
    ),
    "answers": ("perdure/telling/", "api/replies.py", "api/stream.py"),
    "statements and their rows": (
        "perdure/storage/",
        "asyncpg/",
        "perdure/stored/",
    ),
    "rings and notices": ("perdure/queue/", "redis/", "perdure/watch.py", "worker/bell.py"),
    "logs": ("structlog/", "perdure/logs.py"),
    "metrics": ("prometheus_client/", "perdure/metrics.py"),
    "a send, a task": ("api/",),
    "a turn": ("worker/", "perdure/turns/", "perdure/agent/"),
    "the loop, sockets, the kernel": ("asyncio/", "uvloop"),
}
"""What the innermost frame of a sample that is named here is about; frames of no area count to who called them."""


async def _recorded(name: str, process: Process, form: str) -> Path:
    path = Path("build") / f"profile-{name}.{'svg' if form == 'flamegraph' else form}"
    path.parent.mkdir(exist_ok=True)
    how = (
        "--duration",
        str(SECONDS),
        "--rate",
        "200",
        "--format",
        form,
        "--output",
        str(path),
        "--pid",
        str(process.pid),
    )
    # Who holds the interpreter's lock: threads that wait for something would count as busy.
    recorder = await asyncio.create_subprocess_exec(PY_SPY, "record", "--gil", *how)
    if await recorder.wait():
        raise SystemExit(f"py-spy could not look into process {process.pid}")
    return path


def shares(samples: str) -> dict[str, float]:
    """How much of the time each area took, of lines as py-spy's `raw` format has them: frames from outside in, and a number."""
    counted: Counter[str] = Counter()
    for line in samples.splitlines():
        frames, number = line.rsplit(" ", 1)
        counted[_area(frames.split(";"))] += int(number)
    return {area: number / counted.total() for area, number in counted.most_common()}


def _area(frames: list[str]) -> str:
    for frame in reversed(frames):
        for area, parts in AREAS.items():
            if any(f"({part}" in frame or f"/{part}" in frame for part in parts):
                return area
    return "all else"


def rows(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """As a table for docs/performance.md."""
    yield f"| share of the time under load | {' | '.join(found)} |"
    yield f"| --- |{' --- |' * len(found)}"
    for area in [*AREAS, "all else"]:
        of_each = [each.get(area, 0.0) for each in found.values()]
        if any(share >= 0.005 for share in of_each):
            yield f"| {area} | {' | '.join(f'{share:.0%}' for share in of_each)} |"


async def main() -> None:
    """Load for as long as it is looked at."""
    found: dict[str, Mapping[str, float]] = {}
    with services() as running:
        async with stack(running) as made:
            with made.front_door() as (door, url), made.worker() as worker:
                for name, process in (("front door", door), ("worker", worker)):
                    for form in ("flamegraph", "raw"):
                        looking = asyncio.ensure_future(_recorded(name.replace(" ", "-"), process, form))
                        while not looking.done():
                            await flood(url, V1, clients=64, tasks=1000)
                        path = await looking
                        print(path)
                    found[name] = shares(path.read_text())
    put(PAGE, "profile", rows(found))


if __name__ == "__main__":
    asyncio.run(main())
