"""The smallest memory under which each model still has 90 % of its speed, for each way of loading it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.ceiling import ENOUGH, Curve, curves
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas

TITLE = f"Smallest memory for {ENOUGH:.0%} of the speed"
ABSENT = "no experiment ran a model with and without a memory limit"
ROW_PX, TOP, BOTTOM, BAR_PX = 48, 12, 46, 12


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One bar a model and way of loading."""
    rows = [
        curve
        for curve in curves(evidence)
        if (curve.cell.dataset, curve.cell.setup) == (dataset, setup) and curve.unlimited is not None
    ]
    if rows:
        caption = (
            "Bars end at the smallest limit, of those tried, that kept 90 % of the unlimited decode speed. Ring: the "
            "largest limit under which the run was killed for memory. Line: the size of the file. In colour: MoE."
        )
        yield finish(evidence, f"memory-needed{suffix}", _bars(evidence, rows), caption, [curve.cell for curve in rows])


def _bars(evidence: Evidence, rows: Sequence[Curve]) -> Canvas:
    largest = max(point.limit_bytes for curve in rows for point in curve.points)
    axis = Axis(0.0, max(largest, *(curve.model.size_bytes for curve in rows)) / 1e9 * 1.04, 0, WIDTH - 8)
    bottom = TOP + ROW_PX * len(rows) + 8
    canvas = Canvas(WIDTH, bottom + BOTTOM - 8, TITLE, " ".join(_sentence(evidence, curve) for curve in rows))
    for value in axis.ticks():
        canvas.line(axis.px(value), TOP, axis.px(value), bottom)
        anchor = "start" if value == 0 else "middle"
        canvas.text(axis.px(value), bottom + 20, f"{value:g} GB" if value == 0 else f"{value:g}", text_anchor=anchor)
    for place, curve in enumerate(rows):
        _row(canvas, axis, TOP + place * ROW_PX, f"{evidence.names.model(curve.model)}, {curve.way}", curve)
    return canvas


def _row(canvas: Canvas, axis: Axis, top: float, name: str, curve: Curve) -> None:
    colour = "var(--accent)" if curve.model.expert_count else "var(--ink)"
    canvas.text(0, top + 18, name, fill="var(--ink)", font_size=15)
    middle = top + 25 + BAR_PX / 2
    if curve.smallest is not None:
        size = curve.smallest.limit_bytes / 1e9
        canvas.bar(0, top + 25, axis.px(size), BAR_PX, f"{name}: {size:.3g} GB", fill=colour)
        canvas.text(WIDTH, top + 18, f"{size:.3g} GB", fill=colour, font_size=15, text_anchor="end")
    else:
        canvas.text(WIDTH, top + 18, "none tried", fill=colour, font_size=15, text_anchor="end")
    x = axis.px(curve.model.size_bytes / 1e9)
    canvas.line(x, top + 22, x, top + 28 + BAR_PX, stroke="var(--soft)", stroke_width=2.5)
    if curve.killed_at is not None:
        limit = curve.killed_at.limit_bytes / 1e9
        ring: dict[str, str | float] = {"fill": "var(--paper)", "stroke": colour, "stroke_width": 2.5}
        canvas.dot(axis.px(limit), middle, f"{name}: killed for memory at {limit:.3g} GB", **ring)


def _sentence(evidence: Evidence, curve: Curve) -> str:
    smallest = f"{curve.smallest.limit_bytes / 1e9:.3g} GB" if curve.smallest else "none of the limits tried"
    killed = f", killed at {curve.killed_at.limit_bytes / 1e9:.3g} GB" if curve.killed_at else ""
    return f"{evidence.names.model(curve.model)}, {curve.way}: {smallest}{killed}."
