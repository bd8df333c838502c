"""What was measured, and what it was to be."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, as often as it was."""

    work: str
    subject: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half of the distance from the lowest to the highest, in per cent of the median."""
        return 50 * (max(self.values) - min(self.values)) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Check:
    """A target, and whether it was met."""

    target: str
    wanted: str
    measured: str
    met: bool


@dataclass
class Results:
    """All of a run."""

    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, work: str, subject: str, unit: str, values: Iterable[float], note: str = "") -> None:
        """One more figure."""
        self.figures.append(Figure(work, subject, unit, tuple(values), note))

    def of(self, work: str, subject: str) -> float | None:
        """Its median, where it was measured."""
        found = [each for each in self.figures if (each.work, each.subject) == (work, subject)]
        return found[-1].median if found else None

    def at_least(self, target: str, factor: float, one: tuple[str, str], other: tuple[str, str]) -> None:
        """`one` (work, subject) has to be so many times `other`."""
        ours, theirs = self.of(*one), self.of(*other)
        if ours is not None and theirs:
            ratio = ours / theirs
            measured = f"{ratio:.2f}x ({ours:.4g} against {theirs:.4g})"
            self.checks.append(Check(target, f">= {factor:g}x", measured, ratio >= factor))

    def at_most(self, target: str, limit: float, one: tuple[str, str], unit: str) -> None:
        """`one` (work, subject) has to be no more than that."""
        ours = self.of(*one)
        if ours is not None:
            self.checks.append(Check(target, f"<= {limit:g} {unit}", f"{ours:.4g} {unit}", ours <= limit))


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: 0.99 of a hundred values is the 99th."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
