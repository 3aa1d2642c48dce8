"""Decode speed against the bytes that a token reads, and against the bytes of all weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.analysis.cells import experiment_shown
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish, grid
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas, padded, spread, text_width
from harness.records import Struct

TITLE = "Decode speed against bytes"
ABSENT = "no two models of different size were timed"
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 44, 16, 30, 46
PLANES = (
    ("speed-active-bytes", "bytes read a token", "weight_bytes_active"),
    ("speed-total-bytes", "bytes of all weights", "weight_bytes_total"),
)


class Point(Struct, frozen=True):
    """A model in the plane of bytes and speed."""

    name: str
    gigabytes: float
    tokens_per_s: float
    sparse: bool


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One figure a plane; none where all models have the same bytes."""
    timed = [runs for runs in evidence.timed if (runs.cell.dataset, runs.cell.setup) == (dataset, setup)]
    shown = experiment_shown([runs.cell.experiment for runs in timed if runs.decode])
    chosen = [(runs.cell, runs.decode) for runs in timed if runs.decode and runs.cell.experiment == shown]
    for id_, what, field in PLANES:
        points = [
            Point(
                name=evidence.names.cell(cell),
                gigabytes=getattr(cell.model, field) / 1e9,
                tokens_per_s=speed.tokens_per_s.value,
                sparse=bool(cell.model.expert_count),
            )
            for cell, speed in chosen
            if getattr(cell.model, field) > 0
        ]
        if len({point.gigabytes for point in points}) > 1:
            canvas = _scatter(points, f"Decode speed against {what}")
            yield finish(evidence, id_ + suffix, canvas, _caption(what), [cell for cell, _ in chosen])


def _caption(what: str) -> str:
    return (
        f"Each dot one model, {what} across; both axes logarithmic. The dashed line is where a model lies "
        "that moves bytes as "
        "fast as the dense models do: speed times bytes constant. In colour: MoE."
    )


def _scatter(points: Sequence[Point], title: str) -> Canvas:
    x_axis = Axis(*padded([p.gigabytes for p in points], 0.15, log=True), LEFT, WIDTH - RIGHT, log=True)
    y_axis = Axis(*padded([p.tokens_per_s for p in points], 0.2, log=True), HEIGHT - BOTTOM, TOP, log=True)
    said = " ".join(f"{p.name}: {p.gigabytes:.3g} GB, {p.tokens_per_s:.3g} tokens/s." for p in points)
    canvas = Canvas(WIDTH, HEIGHT, title, said)
    grid(canvas, x_axis, y_axis, "GB", "tokens/s")
    _guide(canvas, x_axis, y_axis, [p for p in points if not p.sparse])
    labels = spread([y_axis.px(p.tokens_per_s) for p in points], 17, TOP + 8, HEIGHT - BOTTOM - 8)
    for point, y_label in zip(points, labels, strict=True):
        _labelled_dot(canvas, x_axis.px(point.gigabytes), y_axis.px(point.tokens_per_s), y_label, point)
    return canvas


def _labelled_dot(canvas: Canvas, x: float, y: float, y_label: float, point: Point) -> None:
    colour = "var(--accent)" if point.sparse else "var(--ink)"
    tip = f"{point.name}: {point.gigabytes:.3g} GB, {point.tokens_per_s:.3g} tokens/s"
    canvas.dot(x, y, tip, fill=colour, stroke="var(--paper)", stroke_width=1.5)
    on_left = x + 12 + text_width(point.name) > canvas.width
    canvas.text(
        x - 11 if on_left else x + 11, y_label + 4.5, point.name, fill=colour, text_anchor="end" if on_left else "start"
    )


def _guide(canvas: Canvas, x_axis: Axis, y_axis: Axis, dense: Sequence[Point]) -> None:
    """The line of constant bytes per second through the dense models, cut to the frame."""
    if len(dense) < 2:
        return
    bandwidth = math.exp(sum(math.log(p.gigabytes * p.tokens_per_s) for p in dense) / len(dense))
    ends = [min(max(x, bandwidth / y_axis.high), bandwidth / y_axis.low) for x in (x_axis.low, x_axis.high)]
    (x1, y1), (x2, y2) = ((x_axis.px(x), y_axis.px(bandwidth / x)) for x in ends)
    canvas.line(x1, y1, x2, y2, stroke="var(--soft)", stroke_dasharray="4 5")
