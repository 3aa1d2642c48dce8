"""Decode speed beside what the memory's bandwidth allows: the roof, and each model under active and total bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.cells import experiment_shown
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish, grid
from harness.analysis.roofline import Bandwidth, Roofline
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas, padded, spread, text_width
from harness.analysis.tables.roofline import rooflines
from harness.units import BYTES_PER_GB

TITLE = "Roofline: decode speed and the memory's bandwidth"
ABSENT = "no run measured the memory's bandwidth"
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 44, 16, 30, 46


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """The timed cells of the headline experiment, where the machine's bandwidth was measured."""
    found = [one for one in rooflines(evidence) if (one.cell.dataset, one.cell.setup) == (dataset, setup)]
    shown = experiment_shown([one.cell.experiment for one in found])
    points = [one for one in found if one.cell.experiment == shown and not one.cell.settings.variant]
    if points:
        canvas = _plane(evidence, points, points[0].bandwidth)
        yield finish(evidence, f"roofline{suffix}", canvas, CAPTION, [one.cell for one in points])


CAPTION = (
    "Line: a token that reads its bytes once at the measured bandwidth; no token can be faster. Filled: each model at "
    "the bytes that its token reads. Ring: a MoE model at the bytes of all its weights; above the line it can't have "
    "read them all. Both axes logarithmic."
)


def _gb(points: Sequence[Roofline]) -> list[tuple[float, float]]:
    """(active, total) GB of each point, KV cache included."""
    touched = [one.touched for one in points]
    return [((t.weights_active + t.kv) / BYTES_PER_GB, (t.weights_total + t.kv) / BYTES_PER_GB) for t in touched]


def _plane(evidence: Evidence, points: Sequence[Roofline], machine: Bandwidth) -> Canvas:
    sizes = _gb(points)
    speeds = [one.measured_tokens_per_s.value for one in points]
    ceilings = [one.active_tokens_per_s for one in points] + [one.total_tokens_per_s for one in points]
    x_axis = Axis(*padded([gb for pair in sizes for gb in pair], 0.15, log=True), LEFT, WIDTH - RIGHT, log=True)
    y_axis = Axis(*padded([*speeds, *ceilings], 0.08, log=True), HEIGHT - BOTTOM, TOP, log=True)
    said = " ".join(_sentence(evidence, one) for one in points)
    rate = machine.bytes_per_s.value / BYTES_PER_GB
    canvas = Canvas(WIDTH, HEIGHT, TITLE, f"Bandwidth {rate:.3g} GB/s. {said}")
    grid(canvas, x_axis, y_axis, "GB a token", "tokens/s")
    _roof(canvas, x_axis, y_axis, rate)
    wanted = [y_axis.px(speed) for speed in speeds]
    labels = spread(wanted, 17, TOP + 8, HEIGHT - BOTTOM - 8)
    for one, pair, y_label in zip(points, sizes, labels, strict=True):
        _point(canvas, x_axis, y_axis, one, pair, y_label, evidence.names.cell(one.cell))
    return canvas


def _roof(canvas: Canvas, x_axis: Axis, y_axis: Axis, gb_per_s: float) -> None:
    """The line of constant bytes per second, cut to the frame, with its rate at its upper end."""
    ends = [min(max(x, gb_per_s / y_axis.high), gb_per_s / y_axis.low) for x in (x_axis.low, x_axis.high)]
    (x1, y1), (x2, y2) = ((x_axis.px(x), y_axis.px(gb_per_s / x)) for x in ends)
    canvas.line(x1, y1, x2, y2, stroke="var(--ink)", stroke_width=2)
    canvas.text(x1 + 14, y1 + 4.5, f"{gb_per_s:.3g} GB/s", fill="var(--ink)")


def _point(
    canvas: Canvas, x_axis: Axis, y_axis: Axis, one: Roofline, gb: tuple[float, float], y_label: float, name: str
) -> None:
    speed, percent = one.measured_tokens_per_s.value, 100 * one.of_bound
    x, y = x_axis.px(gb[0]), y_axis.px(speed)
    tip = f"{name}: {gb[0]:.3g} GB a token, {speed:.3g} tokens/s, {percent:.3g} % of the bound"
    if one.cell.model.expert_count:
        _ring(canvas, (x, x_axis.px(gb[1]), y), one, gb[1], name)
        canvas.dot(x, y, tip, fill="var(--accent)", stroke="var(--paper)", stroke_width=1.5)
        return
    canvas.dot(x, y, tip, stroke="var(--paper)", stroke_width=1.5)
    x_label, anchor = (x - 11, "end") if x + 12 + text_width(name) > canvas.width else (x + 11, "start")
    canvas.text(x_label, y_label + 4.5, name, fill="var(--ink)", text_anchor=anchor)


def _ring(canvas: Canvas, place: tuple[float, float, float], one: Roofline, total_gb: float, name: str) -> None:
    """Where the model would lie if it read all its weights for each token, joined to where it lies; and its name."""
    x, x_total, y = place
    canvas.line(x, y, x_total, y, stroke="var(--accent)", stroke_dasharray="4 5")
    tip = f"{name}: {total_gb:.3g} GB of weights; read for each token they allow {one.total_tokens_per_s:.3g} tokens/s"
    canvas.dot(x_total, y, tip, fill="var(--paper)", stroke="var(--accent)", stroke_width=2)
    canvas.text(x_total + 6, y - 12, name, fill="var(--accent)", text_anchor="end")


def _sentence(evidence: Evidence, one: Roofline) -> str:
    name, speed = evidence.names.cell(one.cell), one.measured_tokens_per_s.value
    bounds = f"active bytes allow {one.active_tokens_per_s:.3g}"
    if one.cell.model.expert_count:
        bounds += f", total bytes {one.total_tokens_per_s:.3g}"
    return f"{name}: {speed:.3g} tokens/s where {bounds}."
