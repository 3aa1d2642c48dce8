"""What several tables share: a cell's decode speed relative to the plainest cell of its model."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.runs import Cell
from harness.analysis.tables.base import Column, Style
from harness.terms import BurstKind

RELATIVE_COLUMNS = (
    Column(key="relative", title="Relative", style=Style.RATIO),
    Column(key="relative_low", title="95 % from", style=Style.RATIO),
    Column(key="relative_high", title="to", style=Style.RATIO),
    Column(key="relative_pairs", title="Pairs", style=Style.COUNT, details=True),
)


def relative(evidence: Evidence, cell: Cell) -> tuple[float | None, float | None, float | None, int | None]:
    """Ratio, its interval and its pairs; nulls for the plainest cell itself."""
    for ratio in evidence.ratios_of(cell):
        if ratio.baseline.model.name == cell.model.name and ratio.quantity is BurstKind.DECODE:
            return ratio.interval.value, ratio.interval.low, ratio.interval.high, ratio.interval.n
    return None, None, None, None
