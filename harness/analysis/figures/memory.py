"""Memory of runs that were alone: llama.cpp's plan as bars, the largest peak seen as a mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.cells import CellRuns, experiment_shown
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish
from harness.analysis.runs import PeakMemory, Setup
from harness.analysis.svg import Axis, Canvas

TITLE = "Memory, alone on the machine"
ABSENT = "no run had the machine to itself"
ROW_PX, TOP, BOTTOM, BAR_PX = 58, 30, 46, 14
PARTS = (("weights_bytes", "weights", 1.0), ("kv_bytes", "KV cache", 0.55), ("compute_bytes", "compute", 0.3))
CEILING_SHOWN = 2.0  # times the largest peak: a ceiling further off would only squeeze the bars


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One row a cell with a ledger, in the first experiment that has any."""
    solo = [
        runs
        for runs in evidence.alone
        if (runs.cell.dataset, runs.cell.setup) == (dataset, setup) and any(run.memory for run in runs.runs)
    ]
    shown = experiment_shown([runs.cell.experiment for runs in solo])
    rows = [(runs, _largest(runs)) for runs in solo if runs.cell.experiment == shown]
    if rows:
        caption = (
            "Bars: llama.cpp's plan of weights, KV cache and compute buffers. Line: the largest peak that "
            "any one source "
            "saw, which may count pages of the mapped file and repacked copies twice. In colour: MoE."
        )
        yield finish(evidence, f"memory{suffix}", _bars(evidence, rows), caption, [runs.cell for runs, _ in rows])


def _largest(runs: CellRuns) -> PeakMemory:
    return max((run.memory for run in runs.runs if run.memory), key=_peak)


def _planned(memory: PeakMemory) -> int:
    return memory.weights_bytes + memory.kv_bytes + memory.compute_bytes


def _peak(memory: PeakMemory) -> int:
    sources = (
        memory.vm_hwm_bytes,
        memory.cgroup_peak_bytes,
        memory.phys_footprint_bytes,
        memory.device_rise_bytes,
        memory.available_fall_bytes,
    )
    return max((value for value in sources if value is not None), default=0)


def _bars(evidence: Evidence, rows: Sequence[tuple[CellRuns, PeakMemory]]) -> Canvas:
    largest = max(max(_peak(memory), _planned(memory)) for _, memory in rows)
    ceiling = next((memory.ceiling_bytes for _, memory in rows if memory.ceiling_bytes), None)
    near = ceiling if ceiling is not None and ceiling <= CEILING_SHOWN * largest else None
    axis = Axis(0.0, max(largest, near or 0) / 1e9 * 1.04, 0, WIDTH - 8)
    bottom = TOP + ROW_PX * len(rows) + 8
    said = [_sentence(evidence.names.cell(runs.cell), memory) for runs, memory in rows]
    canvas = Canvas(WIDTH, bottom + BOTTOM - 8, TITLE, " ".join(said))
    for value in axis.ticks():
        canvas.line(axis.px(value), TOP, axis.px(value), bottom)
        anchor = "start" if value == 0 else "middle"
        canvas.text(axis.px(value), bottom + 20, f"{value:g} GB" if value == 0 else f"{value:g}", text_anchor=anchor)
    if near is not None:
        canvas.line(axis.px(near / 1e9), TOP, axis.px(near / 1e9), bottom, stroke="var(--soft)", stroke_width=2)
    for place, (runs, memory) in enumerate(rows):
        colour = "var(--accent)" if runs.cell.model.expert_count else "var(--ink)"
        _row(canvas, axis, TOP + place * ROW_PX, evidence.names.cell(runs.cell), memory, colour)
    return canvas


def _row(canvas: Canvas, axis: Axis, top: float, name: str, memory: PeakMemory, colour: str) -> None:
    start = 0.0
    for field, what, opacity in PARTS:
        size = getattr(memory, field) / 1e9
        x1, x2 = axis.px(start), axis.px(start + size)
        canvas.bar(x1, top + 30, x2 - x1, BAR_PX, f"{name}: {what} {size:.3g} GB", fill=colour, fill_opacity=opacity)
        start += size
    peak = _peak(memory) / 1e9
    canvas.text(0, top + 20, name, fill="var(--ink)", font_size=15)
    if peak:
        x = axis.px(peak)
        canvas.line(x, top + 24, x, top + 36 + BAR_PX, stroke=colour, stroke_width=2.5)
        canvas.text(canvas.width, top + 20, f"{peak:.2f} GB", fill=colour, font_size=15, text_anchor="end")


def _sentence(name: str, memory: PeakMemory) -> str:
    peak = _peak(memory)
    seen = f", peak {peak / 1e9:.3g} GB" if peak else ", no peak seen"
    return f"{name}: planned {_planned(memory) / 1e9:.3g} GB{seen}."
