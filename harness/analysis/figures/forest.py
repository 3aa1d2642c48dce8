"""Ratios of decode speed with their intervals around 1."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.analysis.cells import experiment_shown
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish
from harness.analysis.ratios import Finding, Ratio
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas, padded
from harness.terms import BurstKind

TITLE = "Decode speed, MoE over dense"
ABSENT = "no MoE model was measured in pairs with a dense one"
TICKS = (1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 0.8, 0.9, 0.95, 0.98, 1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 16)
ROW_PX, TOP, BOTTOM, TICK_GAP = 58, 30, 46, 46
TIMES = "\u00d7"


def headline_ratios(evidence: Evidence, dataset: int, setup: Setup) -> list[Ratio]:
    """Decode ratios of MoE over dense models in the headline experiment, else in the first that has any."""
    found = [
        ratio
        for ratio in evidence.ratios
        if (ratio.candidate.dataset, ratio.candidate.setup) == (dataset, setup)
        and ratio.quantity is BurstKind.DECODE
        and ratio.candidate.model.expert_count
        and not ratio.baseline.model.expert_count
    ]
    chosen = experiment_shown([ratio.candidate.experiment for ratio in found])
    return [ratio for ratio in found if ratio.candidate.experiment == chosen]


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One row a ratio."""
    ratios = headline_ratios(evidence, dataset, setup)
    if not ratios:
        return
    values = [v for r in ratios for v in (r.interval.low, r.interval.high, r.interval.value, 1.0) if v is not None]
    bottom = TOP + ROW_PX * len(ratios) + 8
    axis = Axis(*padded(values, 0.06, log=True), 8, WIDTH - 8, log=True)
    several = len({r.candidate.model for r in ratios}) > 1
    said = [_sentence(evidence, ratio) for ratio in ratios]
    canvas = Canvas(WIDTH, bottom + BOTTOM - 8, TITLE, " ".join(said))
    _axis(canvas, axis, bottom)
    for place, ratio in enumerate(ratios):
        name = f"vs {evidence.names.cell(ratio.baseline)}"
        label = f"{evidence.names.cell(ratio.candidate)} {name}" if several else name
        _row(canvas, axis, TOP + place * ROW_PX, ratio, label, said[place])
    cells = [cell for ratio in ratios for cell in (ratio.candidate, ratio.baseline)]
    caption = "Dots: geometric mean of pairs. Bars: 95 % interval. Right of 1 the MoE model generates faster."
    yield finish(evidence, f"ratios{suffix}", canvas, caption, cells)


def _axis(canvas: Canvas, axis: Axis, bottom: float) -> None:
    """Lines at round ratios, nearest to 1 first, as many as there is room for."""
    shown: list[float] = []
    for value in sorted(TICKS, key=lambda v: abs(math.log(v))):
        x = axis.px(value)
        if not axis.low <= value <= axis.high or any(abs(x - other) < TICK_GAP for other in shown):
            continue
        shown.append(x)
        colour = "var(--soft)" if value == 1 else "var(--line)"
        canvas.line(x, TOP, x, bottom, stroke=colour, stroke_width=1.5 if value == 1 else 1)
        anchor = "start" if x < 24 else "end" if x > canvas.width - 24 else "middle"
        canvas.text(x, bottom + 20, f"{value:.3g}{TIMES}", text_anchor=anchor)


def _row(canvas: Canvas, axis: Axis, top: float, ratio: Ratio, label: str, tip: str) -> None:
    interval = ratio.interval
    sure = ratio.finding in (Finding.FASTER, Finding.SLOWER)
    colour = "var(--accent)" if sure else "var(--soft)"
    y = top + 42
    if interval.low is not None and interval.high is not None:
        x1, x2 = axis.px(interval.low), axis.px(interval.high)
        end = max(x2, x1 + 1)
        canvas.line(x1, y, end, y, stroke=colour, stroke_width=5, stroke_linecap="round", stroke_opacity=0.45)
    canvas.dot(axis.px(interval.value), y, tip, fill=colour)
    canvas.text(0, top + 20, label, fill="var(--ink)", font_size=15)
    value = f"{interval.value:.3f}{TIMES}"
    canvas.text(canvas.width, top + 20, value, fill=colour, font_size=15, text_anchor="end", font_weight="600")


def _sentence(evidence: Evidence, ratio: Ratio) -> str:
    interval = ratio.interval
    bounds = "" if interval.low is None else f", 95 % interval {interval.low:.3f} to {interval.high:.3f}"
    names = f"{evidence.names.cell(ratio.candidate)} over {evidence.names.cell(ratio.baseline)}"
    return f"{names}: {interval.value:.3f}{bounds}, {interval.n} pairs, {ratio.finding.value}."
