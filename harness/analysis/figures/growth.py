"""Decode speed against the bytes of all weights where the bytes that a token reads stay the same, with the fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish, grid
from harness.analysis.growth import SAME_SPREAD, Growth, growths
from harness.analysis.runs import Cell, Setup
from harness.analysis.stats import Interval
from harness.analysis.svg import Axis, Canvas, padded, spread, text_width
from harness.records import Struct
from harness.terms import RunKind
from harness.units import BYTES_PER_GB, NS_PER_MS, NS_PER_S

TITLE = "Decode speed against total bytes at equal active bytes"
ABSENT = "no experiment varied the total bytes at equal active bytes, in rounds"
HEIGHT, LEFT, TOP, BOTTOM, CURVE_POINTS = 380, 44, 30, 46, 24
SHADES = (1.0, 0.55, 0.3)  # of levels of active bytes, the largest first


class Level(Struct, frozen=True):
    """Members of a family whose tokens read as many bytes."""

    active_gb: float
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """For the end of its line."""
        return f"{self.active_gb:.2f} GB active"


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One figure a family in which total bytes vary alone between some members."""
    speeds = {runs.cell: runs.decode.tokens_per_s for runs in evidence.of_kind(RunKind.ROUNDS) if runs.decode}
    for found in growths(evidence):
        cell = found.cells[0]
        shown = [level for level in levels(found.cells) if len(level.cells) > 1]
        if (cell.dataset, cell.setup) == (dataset, setup) and found.ns_per_total_gb is not None and shown:
            used = [cell for level in shown for cell in level.cells]
            canvas = _curves(evidence, found, shown, speeds)
            id_ = f"growth-{cell.experiment}{suffix}"
            yield finish(evidence, id_, canvas, _caption(found.ns_per_total_gb, found.mean_ns), used)


def levels(cells: Sequence[Cell]) -> tuple[Level, ...]:
    """Cells by active bytes, the largest first; within 2 % they are the same."""
    grouped: list[list[Cell]] = []
    for cell in sorted(cells, key=lambda c: (-c.model.weight_bytes_active, c.model.weight_bytes_total)):
        largest = grouped[-1][0].model.weight_bytes_active if grouped else 0
        if largest - cell.model.weight_bytes_active > SAME_SPREAD * largest or not grouped:
            grouped.append([cell])
        else:
            grouped[-1].append(cell)
    return tuple(
        Level(
            active_gb=float(np.mean([c.model.weight_bytes_active for c in members])) / BYTES_PER_GB,
            cells=tuple(sorted(members, key=lambda c: c.model.weight_bytes_total)),
        )
        for members in grouped
    )


def fitted_tokens_per_s(found: Growth, total_gb: float, active_gb: float) -> float:
    """The plane of the least squares, turned into speed."""
    mean_total, mean_active = (
        float(np.mean([getattr(cell.model, field) for cell in found.cells])) / BYTES_PER_GB
        for field in ("weight_bytes_total", "weight_bytes_active")
    )
    token_ns = found.mean_ns
    if found.ns_per_total_gb is not None:
        token_ns += found.ns_per_total_gb.value * (total_gb - mean_total)
    if found.ns_per_active_gb is not None:
        token_ns += found.ns_per_active_gb.value * (active_gb - mean_active)
    return NS_PER_S / token_ns


def _caption(slope: Interval, mean_ns: float) -> str:
    per_gb, share = slope.value / NS_PER_MS, 100 * slope.value / mean_ns
    bounds = "no interval"
    if slope.low is not None and slope.high is not None:
        bounds = f"95 % interval {slope.low / NS_PER_MS:.3g} to {slope.high / NS_PER_MS:.3g}"
    sure = "" if slope.excludes(0) else " No growth was detected."
    return (
        "Dots: models with their 95 % intervals. Lines: least squares. A GB of total bytes at equal active bytes costs "
        f"{per_gb:.3g} ms a token ({bounds}), {share:.2g} % of the mean token.{sure}"
    )


def _curves(evidence: Evidence, found: Growth, shown: Sequence[Level], speeds: dict[Cell, Interval]) -> Canvas:
    cells = [cell for level in shown for cell in level.cells]
    right = 16 + max(text_width(level.name) for level in shown)
    x_axis = Axis(*padded([_total_gb(cell) for cell in cells], 0.05), LEFT, WIDTH - right)
    values = [v for cell in cells for v in (speeds[cell].low, speeds[cell].high, speeds[cell].value) if v is not None]
    y_axis = Axis(*padded(values, 0.12), HEIGHT - BOTTOM, TOP)
    said = " ".join(_sentence(evidence, cell, speeds[cell]) for cell in cells)
    canvas = Canvas(WIDTH, HEIGHT, f"{TITLE}: {found.cells[0].experiment}", said)
    grid(canvas, x_axis, y_axis, "GB of all weights", "tokens/s")
    fits = [fitted_tokens_per_s(found, _total_gb(level.cells[-1]), level.active_gb) for level in shown]
    wanted = [_clamped(y_axis, fit) for fit in fits]
    labels = spread(wanted, 17, TOP, HEIGHT - BOTTOM)
    for place, (level, y_label) in enumerate(zip(shown, labels, strict=True)):
        shade = SHADES[min(place, len(SHADES) - 1)]
        _curve(canvas, x_axis, y_axis, found, level, shade)
        for cell in level.cells:
            _point(canvas, x_axis, y_axis, cell, speeds[cell], _sentence(evidence, cell, speeds[cell]), shade)
        canvas.text(x_axis.px(_total_gb(level.cells[-1])) + 12, y_label + 4.5, level.name, fill="var(--accent)")
    return canvas


def _total_gb(cell: Cell) -> float:
    return cell.model.weight_bytes_total / BYTES_PER_GB


def _clamped(axis: Axis, value: float) -> float:
    return axis.px(min(max(value, axis.low), axis.high))


def _curve(canvas: Canvas, x_axis: Axis, y_axis: Axis, found: Growth, level: Level, shade: float) -> None:
    ends = _total_gb(level.cells[0]), _total_gb(level.cells[-1])
    path = " ".join(
        f"{x_axis.px(x):.1f},{_clamped(y_axis, fitted_tokens_per_s(found, x, level.active_gb)):.1f}"
        for x in map(float, np.linspace(*ends, CURVE_POINTS))
    )
    style: dict[str, str | float] = {
        "fill": "none",
        "stroke": "var(--accent)",
        "stroke_width": 2,
        "stroke_opacity": shade,
    }
    canvas.add("polyline", {"points": path, **style})


def _point(canvas: Canvas, x_axis: Axis, y_axis: Axis, cell: Cell, speed: Interval, tip: str, shade: float) -> None:
    x = x_axis.px(_total_gb(cell))
    fill = "var(--accent)" if cell.model.expert_count else "var(--ink)"
    if speed.low is not None and speed.high is not None:
        ends = y_axis.px(speed.low), y_axis.px(speed.high)
        canvas.line(x, ends[0], x, ends[1], stroke=fill, stroke_width=5, stroke_opacity=0.35)
    y = y_axis.px(speed.value)
    canvas.dot(x, y, tip, fill=fill, fill_opacity=shade, stroke="var(--paper)", stroke_width=1.5)


def _sentence(evidence: Evidence, cell: Cell, speed: Interval) -> str:
    active_gb = cell.model.weight_bytes_active / BYTES_PER_GB
    sizes = f"{_total_gb(cell):.3g} GB in all, {active_gb:.3g} GB a token"
    return f"{evidence.names.cell(cell)}: {sizes}, {speed.value:.3g} tokens/s."
