"""Figures of the report: one module each; to add one, write it and name it in `MODULES`."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.figures import (
    ceiling,
    decode_step,
    depth,
    forest,
    growth,
    memory,
    roofline,
    routing_map,
    speed_bytes,
)
from harness.analysis.figures.base import Figure, FigureModule, Missing
from harness.records import Struct

MODULES: tuple[FigureModule, ...] = (
    forest,
    memory,
    speed_bytes,
    roofline,
    decode_step,
    depth,
    growth,
    routing_map,
    ceiling,
)


class Drawn(Struct, frozen=True):
    """All figures that the data allow, setup by setup, and those that no setup allows."""

    figures: tuple[Figure, ...]
    missing: tuple[Missing, ...]


def draw(evidence: Evidence) -> Drawn:
    """Every figure of every setup."""
    several = len(evidence.setups) > 1
    made: list[Figure] = []
    seen: set[str] = set()
    for place, (dataset, setup) in enumerate(evidence.setups):
        for module in MODULES:
            drawn = tuple(module.draw(evidence, dataset, setup, f"-{place + 1}" if several else ""))
            made += drawn
            seen |= {module.TITLE} if drawn else set()
    missing = (Missing(title=module.TITLE, reason=module.ABSENT) for module in MODULES if module.TITLE not in seen)
    return Drawn(figures=tuple(made), missing=tuple(missing))
