"""How often each expert of each layer was selected, over what an even router would give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish
from harness.analysis.routing import Routing, routing
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas, nice_step
from harness.terms import RunKind

TITLE = "Routing, layer by expert"
ABSENT = "no run traced the routers"
LEFT, TOP, ROW_PX, BELOW, KEY_PX, KEY_STEPS = 34, 30, 14, 84, 200, 20
TIMES = "\u00d7"


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One map a traced cell; the first is numbered only where there are several."""
    traced = [
        (runs, found)
        for runs in evidence.of_kind(RunKind.ROUTING)
        if (runs.cell.dataset, runs.cell.setup) == (dataset, setup)
        and (found := routing([run.routing for run in runs.runs if run.routing is not None])) is not None
    ]
    for place, (runs, found) in enumerate(traced):
        number = f"-{place + 1}" if len(traced) > 1 else ""
        caption = (
            f"{found.rows:,} tokens ({runs.cell.workload.source.value}). Colour: how often an expert was selected, "
            "over what an even router would give; blank was never selected."
        )
        canvas = _map(_name(evidence, runs), found)
        yield finish(evidence, f"routing-map{number}{suffix}", canvas, caption, [runs.cell])


def _name(evidence: Evidence, runs: CellRuns) -> str:
    return f"{evidence.names.cell(runs.cell)}, {runs.cell.workload.source.value} tokens"


def over_even(found: Routing) -> NDArray[np.float64]:
    """[layers, experts]: selections over those of an even router; 1 is even."""
    counts = np.array(found.selections, dtype=np.float64)
    ratios: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True) * found.expert_count
    return ratios


def _map(name: str, found: Routing) -> Canvas:
    ratios = over_even(found)
    layers, experts = ratios.shape
    bottom = TOP + layers * ROW_PX
    canvas = Canvas(WIDTH, bottom + BELOW, f"{TITLE}: {name}", _sentence(name, found, ratios))
    axis = Axis(0.0, float(experts), LEFT, WIDTH - 2)
    top_ratio = float(ratios.max())
    with canvas.group(fill="var(--accent)", shape_rendering="crispEdges"):
        for layer, expert in np.ndindex(layers, experts):
            _cell(canvas, axis, found, (layer, expert), float(ratios[layer, expert]), top_ratio)
    canvas.add("rect", {"x": LEFT, "y": TOP, "width": WIDTH - 2 - LEFT, "height": bottom - TOP} | FRAME)
    _axes(canvas, axis, found, bottom)
    _key(canvas, top_ratio, bottom + 54)
    return canvas


FRAME: dict[str, str | float] = {"fill": "none", "stroke": "var(--line)", "pointer_events": "none"}


def _cell(canvas: Canvas, axis: Axis, found: Routing, place: tuple[int, int], ratio: float, top_ratio: float) -> None:
    layer, expert = place
    tip = f"layer {found.layer_numbers[layer]}, expert {expert}: {ratio:.2f} {TIMES} even"
    x, width = axis.px(expert), axis.px(expert + 1) - axis.px(expert)
    place_px = {"x": x, "y": TOP + layer * ROW_PX, "width": width, "height": ROW_PX}
    canvas.add("rect", {**place_px, "fill_opacity": ratio / top_ratio}, tip=tip)


def _axes(canvas: Canvas, axis: Axis, found: Routing, bottom: float) -> None:
    canvas.text(0, 14, "layer")
    step = 1 if len(found.layer_numbers) <= 8 else 4
    for row in range(0, len(found.layer_numbers), step):
        y = TOP + (row + 0.5) * ROW_PX + 4.5
        canvas.text(LEFT - 8, y, str(found.layer_numbers[row]), text_anchor="end")
    step = round(nice_step(max(1.0, found.expert_count / 8)))
    for expert in range(0, found.expert_count, step):
        canvas.text(axis.px(expert + 0.5), bottom + 19, str(expert), text_anchor="middle")
    canvas.text(axis.end_px, bottom + 36, "expert", text_anchor="end")


def _key(canvas: Canvas, top_ratio: float, y: float) -> None:
    """The scale of the colour, from never to the most often selected."""
    step_px = KEY_PX / KEY_STEPS
    with canvas.group(fill="var(--accent)"):
        for step in range(KEY_STEPS):
            place = {"x": LEFT + step * step_px, "y": y, "width": step_px, "height": 10}
            canvas.add("rect", {**place, "fill_opacity": (step + 0.5) / KEY_STEPS})
    canvas.text(LEFT, y + 26, "never")
    canvas.text(LEFT + KEY_PX, y + 26, f"{top_ratio:.3g} {TIMES} even", text_anchor="end")


def _sentence(name: str, found: Routing, ratios: NDArray[np.float64]) -> str:
    layer, expert = np.unravel_index(int(ratios.argmax()), ratios.shape)
    never = int((ratios == 0).sum())
    return (
        f"{name}: {found.rows} tokens through {len(found.layer_numbers)} layers of {found.expert_count} experts, "
        f"{found.expert_used_count} used. Most often selected: expert {expert} of layer {found.layer_numbers[layer]}, "
        f"{ratios.max():.2f} times as often as an even router would. Never selected: {never} of {ratios.size}. "
        f"Entropy: {100 * found.entropy_fraction:.1f} % of an even router's."
    )
