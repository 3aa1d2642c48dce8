"""Decode speed against the tokens in the KV cache, where an experiment varies them."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish, grid
from harness.analysis.runs import Cell, Setup
from harness.analysis.svg import Axis, Canvas, padded, spread, text_width

TITLE = "Decode speed against context"
ABSENT = "no experiment varied the tokens in the KV cache"
HEIGHT, LEFT, TOP, BOTTOM = 380, 44, 30, 46
Line = list[tuple[int, float, Cell]]


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One line a model with at least two depths."""
    lines: dict[str, Line] = {}
    for runs in evidence.timed:
        here = (runs.cell.dataset, runs.cell.setup) == (dataset, setup)
        if here and runs.decode and runs.cell.settings.variant.startswith("depth_tokens="):
            point = (runs.cell.workload.depth_tokens, runs.decode.tokens_per_s.value, runs.cell)
            lines.setdefault(evidence.names.model(runs.cell.model), []).append(point)
    lines = {name: sorted(points, key=lambda p: p[0]) for name, points in lines.items() if len(points) > 1}
    if lines:
        used = [point[2] for points in lines.values() for point in points]
        caption = "Decode speed as the KV cache fills; both axes start where the data do. In colour: MoE."
        yield finish(evidence, f"speed-depth{suffix}", _lines(lines), caption, used)


def _lines(lines: dict[str, Line]) -> Canvas:
    right = 16 + max(text_width(name) for name in lines)
    depths = [depth for points in lines.values() for depth, _, _ in points]
    speeds = [speed for points in lines.values() for _, speed, _ in points]
    x_axis = Axis(*padded(depths, 0.03), LEFT, WIDTH - right)
    y_axis = Axis(*padded(speeds, 0.1), HEIGHT - BOTTOM, TOP)
    said = " ".join(
        f"{name}: " + ", ".join(f"{speed:.3g} tokens/s at {depth}" for depth, speed, _ in points) + "."
        for name, points in lines.items()
    )
    canvas = Canvas(WIDTH, HEIGHT, TITLE, said)
    grid(canvas, x_axis, y_axis, "tokens in the KV cache", "tokens/s")
    ends = spread([y_axis.px(points[-1][1]) for points in lines.values()], 17, TOP, HEIGHT - BOTTOM)
    for (name, points), y_label in zip(lines.items(), ends, strict=True):
        _line(canvas, x_axis, y_axis, name, points, y_label)
    return canvas


def _line(canvas: Canvas, x_axis: Axis, y_axis: Axis, name: str, points: Line, y_label: float) -> None:
    colour = "var(--accent)" if points[0][2].model.expert_count else "var(--ink)"
    path = " ".join(f"{x_axis.px(depth):.1f},{y_axis.px(speed):.1f}" for depth, speed, _ in points)
    canvas.add("polyline", {"points": path, "fill": "none", "stroke": colour, "stroke_width": 2})
    for depth, speed, _ in points:
        tip = f"{name}: {speed:.3g} tokens/s at {depth} tokens"
        canvas.dot(x_axis.px(depth), y_axis.px(speed), tip, fill=colour, r=4)
    canvas.text(x_axis.px(points[-1][0]) + 10, y_label + 4.5, name, fill=colour)
