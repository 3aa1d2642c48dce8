"""What a formula of a claim sees: a value with its interval, and the cells and runs behind it."""

from __future__ import annotations

from harness.analysis.runs import Cell, watermarks
from harness.analysis.stats import Interval
from harness.records import Struct


class Observation(Struct, frozen=True):
    """A value that speaks to a claim."""

    interval: Interval | None  # null: seen, but it gives no value; a fault says why
    cells: tuple[Cell, ...]
    run_ids: tuple[str, ...]
    remark: str = ""
    faults: tuple[str, ...] = ()  # why it can satisfy no claim, whatever its value

    @property
    def watermarks(self) -> tuple[str, ...]:
        """Of all cells."""
        return tuple(dict.fromkeys(mark for cell in self.cells for mark in watermarks(cell)))
