"""Plots of a run's JSON: `python -m bench --plot docs/performance` writes PNG files there. Needs the extra `bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PEERS = (
    ("flood, 64 clients", "completed per second, 64 clients that send without waiting", "flood"),
    ("blocking, 64 clients", "blocking sends per second, 64 clients", "blocking"),
    ("drain of no-op", "no-op jobs per second, one worker", "drain"),
)
GROWTH = (("append to a task: time", "ms"), ("append to a task: WAL", "bytes"))


def plot(found: Path, folder: Path) -> list[Path]:
    """The files that were written."""
    import matplotlib as mpl

    mpl.use("Agg")
    figures = json.loads(found.read_text())["figures"]
    folder.mkdir(parents=True, exist_ok=True)
    written = [_bars(figures, work, title, folder / f"{name}.png") for work, title, name in PEERS]
    return [*filter(None, [*written, _growth(figures, folder / "growth.png")])]


def _bars(figures: list[dict[str, Any]], work: str, title: str, path: Path) -> Path | None:
    from matplotlib import pyplot as plt

    rows = [(each["subject"], each["median"]) for each in figures if each["work"] == work]
    rows = sorted((row for row in rows if "worker" not in row[0]), key=lambda row: row[1])
    if not rows:
        return None
    drawing, axes = plt.subplots(figsize=(7, 0.5 + 0.4 * len(rows)))
    colours = ["#2a6f97" if name.startswith("Perdure") else "#a9b4bd" for name, _ in rows]
    bars = axes.barh([name for name, _ in rows], [value for _, value in rows], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
    return path


def _growth(figures: list[dict[str, Any]], path: Path) -> Path | None:
    from matplotlib import pyplot as plt

    drawing, both = plt.subplots(1, 2, figsize=(7, 2.6))
    for axes, (work, unit) in zip(both, GROWTH, strict=True):
        rows = [each for each in figures if each["work"] == work]
        if not rows:
            plt.close(drawing)
            return None
        axes.plot(
            [int(each["subject"].split()[0].replace(",", "")) for each in rows],
            [each["median"] for each in rows],
            "o-",
            color="#2a6f97",
        )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(f"{work}, {unit}", fontsize=9)
        axes.set_xlabel("messages there", fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
    return path
