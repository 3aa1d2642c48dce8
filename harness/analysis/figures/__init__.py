"""Figures of the report: one module each; to add one, write it and name it in `MODULES`."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.figures import depth, forest, memory, speed_bytes
from harness.analysis.figures.base import Figure, FigureModule

MODULES: tuple[FigureModule, ...] = (forest, memory, speed_bytes, depth)


def figures(evidence: Evidence) -> tuple[Figure, ...]:
    """All figures that the data allow, setup by setup."""
    several = len(evidence.setups) > 1
    return tuple(
        figure
        for place, (dataset, setup) in enumerate(evidence.setups)
        for module in MODULES
        for figure in module.draw(evidence, dataset, setup, f"-{place + 1}" if several else "")
    )
