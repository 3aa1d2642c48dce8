"""Memory ceilings: the same cell under ever smaller limits, and the smallest that still gives most of its speed.

A limit is a container's (memory and swap together). Major faults are what a limit does, so runs that they taint count
here; runs that something else tainted do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import msgspec

from harness.analysis.cells import CellRuns, Speed
from harness.analysis.evidence import Evidence
from harness.analysis.runs import Cell, Run
from harness.records import ModelRef
from harness.terms import Ending, RunKind, TaintKind

EXPECTED = (TaintKind.MAJOR_FAULTS, TaintKind.SWAPPED, TaintKind.IDLE_DRIFT)  # say nothing against these runs
ENOUGH = 0.9  # of the speed without a limit


class Point:
    """One cell under one limit."""

    def __init__(self, evidence: Evidence, cell: Cell, numbers: Sequence[int]) -> None:
        self.cell = cell
        self.runs: tuple[Run, ...] = tuple(evidence.runs[number] for number in numbers)
        kept = [number for number in numbers if _counts(evidence.runs[number])]
        self.speed: Speed | None = CellRuns(cell, self.runs[0].kind, kept, evidence.loaded).decode if kept else None

    @property
    def limit_bytes(self) -> int:
        """0: none was set."""
        return self.cell.settings.memory_limit_bytes

    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed; null where no run counts."""
        return self.speed.tokens_per_s.value if self.speed else None

    @property
    def waited_for_disk(self) -> bool:
        """Whether a decode window held a major fault: what a limit does, and a neighbour does not."""
        return self.speed is not None and bool(self.speed.major_faults)

    @property
    def endings(self) -> str:
        """`2 ok, 1 oom`."""
        found = Counter(run.termination.ending.value for run in self.runs)
        return ", ".join(f"{count} {ending}" for ending, count in sorted(found.items()))

    @property
    def out_of_memory(self) -> bool:
        """Whether every run was."""
        return all(run.termination.ending is Ending.OOM for run in self.runs)

    @property
    def last_words(self) -> str | None:
        """Of the first run that did not end well."""
        return next((run.termination.message for run in self.runs if run.termination.message), None)


def _counts(run: Run) -> bool:
    return run.termination.ending is Ending.OK and all(taint.kind in EXPECTED for taint in run.taints)


class Curve:
    """One model with one way of loading, from no limit down."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(sorted(points, key=lambda point: (bool(point.limit_bytes), -point.limit_bytes)))

    @property
    def cell(self) -> Cell:
        """Of the widest point."""
        return self.points[0].cell

    @property
    def model(self) -> ModelRef:
        """Whose memory it is."""
        return self.cell.model

    @property
    def way(self) -> str:
        """How the weights are loaded, for people."""
        settings = self.cell.settings
        mapped = "mapped" if settings.use_mmap else "read"
        return f"{mapped}, {'repacked' if settings.repack else 'not repacked'}"

    @cached_property
    def unlimited(self) -> float | None:
        """Decode speed without a limit, tokens a second."""
        free = [point for point in self.points if not point.limit_bytes]
        return free[0].tokens_per_s if free else None

    def share(self, point: Point) -> float | None:
        """Of the speed without a limit; 0 where the model did not run for lack of memory."""
        if self.unlimited is None:
            return None
        if point.out_of_memory:
            return 0.0
        return point.tokens_per_s / self.unlimited if point.tokens_per_s is not None else None

    @cached_property
    def smallest(self) -> Point | None:
        """The smallest limit that keeps `ENOUGH`, no larger one having failed; null where even the largest does not."""
        found = None
        for point in self.points:
            if point.limit_bytes:
                if self._lost(point):
                    break
                found = point if point.speed else found
        return found

    def _lost(self, point: Point) -> bool:
        """Speed that was lost without one major fault was lost to something else than the limit."""
        share = self.share(point)
        return point.out_of_memory or (point.waited_for_disk and (share is None or share < ENOUGH))

    @cached_property
    def killed_at(self) -> Point | None:
        """The largest limit under which it never ran for lack of memory."""
        return next((point for point in self.points if point.limit_bytes and point.out_of_memory), None)


def curves(evidence: Evidence) -> tuple[Curve, ...]:
    """Every model and way of loading of the experiments that set limits."""
    found: dict[Cell, list[Point]] = {}
    for cell, numbers in limited(evidence).items():
        found.setdefault(_without_limit(cell), []).append(Point(evidence, cell, numbers))
    return tuple(Curve(points) for points in found.values())


def limited(evidence: Evidence) -> Mapping[Cell, list[int]]:
    """Numbers of the runs of each cell of an experiment that sets limits, in a fixed order."""
    by_cell: dict[Cell, list[int]] = {}
    for number, run in _timed(evidence.runs):
        if evidence.sets_limits(run.cell):
            by_cell.setdefault(run.cell, []).append(number)
    return dict(sorted(by_cell.items(), key=lambda item: _order(item[0])))


def _timed(runs: Sequence[Run]) -> Iterator[tuple[int, Run]]:
    return ((number, run) for number, run in enumerate(runs) if run.kind in (RunKind.SOLO, RunKind.ROUNDS))


def _order(cell: Cell) -> tuple[int, bool, str, bool, bool, bool, int]:
    """Mixtures of experts first; of each way of loading the widest limit first."""
    settings, model = cell.settings, cell.model
    limit = settings.memory_limit_bytes
    way = (not settings.use_mmap, not settings.repack)
    return (cell.dataset, not model.expert_count, model.name, *way, bool(limit), -limit)


def _without_limit(cell: Cell) -> Cell:
    settings = msgspec.structs.replace(cell.settings, memory_limit_bytes=0, variant="")
    return msgspec.structs.replace(cell, settings=settings)
