"""One decode step of each profiled model as a bar, divided by what the time goes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.analysis.attribution import Attribution, attribution
from harness.analysis.cells import experiment_shown
from harness.analysis.evidence import Evidence
from harness.analysis.figures.base import WIDTH, Figure, finish, legend, legend_height
from harness.analysis.runs import Setup
from harness.analysis.svg import Axis, Canvas, text_width
from harness.records import Struct
from harness.terms import NodeCategory, RunKind
from harness.units import NS_PER_MS

TITLE = "Where a decode step goes"
ABSENT = "no run was profiled"
ROW_PX, TOP, AXIS_PX, BAR_PX = 66, 22, 34, 26
PHONE_FONT = 16  # the page enlarges the text of figures on narrow screens: labels must fit then, too


class Part(Struct, frozen=True):
    """Categories that share a colour."""

    name: str
    hue: str
    categories: tuple[NodeCategory, ...]


PARTS = (
    Part(name="attention", hue="blue", categories=(NodeCategory.ATTENTION,)),
    Part(name="KV cache", hue="sky", categories=(NodeCategory.KV,)),
    Part(name="router", hue="orange", categories=(NodeCategory.ROUTER,)),
    Part(
        name="experts, up and gate",
        hue="teal",
        categories=(NodeCategory.EXPERT_GATE, NodeCategory.EXPERT_UP, NodeCategory.EXPERT_ACTIVATION),
    ),
    Part(name="experts, down", hue="mint", categories=(NodeCategory.EXPERT_DOWN,)),
    Part(name="combine", hue="lime", categories=(NodeCategory.COMBINE,)),
    Part(name="shared expert", hue="sand", categories=(NodeCategory.SHARED_EXPERT,)),
    Part(name="dense FFN", hue="slate", categories=(NodeCategory.DENSE_FFN,)),
    Part(name="head", hue="violet", categories=(NodeCategory.HEAD,)),
    Part(name="norm", hue="rose", categories=(NodeCategory.NORM,)),
    Part(name="other", hue="grey", categories=(NodeCategory.CONVOLUTION, NodeCategory.OTHER)),
)


def draw(evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
    """One row a profiled model of the first experiment that profiled any; whole models before varied ones."""
    profiled = [
        found
        for runs in evidence.of_kind(RunKind.PROFILE)
        if (runs.cell.dataset, runs.cell.setup) == (dataset, setup) and (found := attribution(runs)) is not None
    ]
    whole = [found for found in profiled if not found.cell.model.variant]
    shown = experiment_shown([found.cell.experiment for found in whole or profiled])
    rows = [found for found in profiled if found.cell.experiment == shown]
    if rows:
        names = [evidence.names.cell(found.cell) for found in rows]
        yield finish(
            evidence, f"decode-step{suffix}", _bars(rows, names), _caption(rows, names), [f.cell for f in rows]
        )


def parts_ms(found: Attribution) -> list[tuple[Part, float]]:
    """Net milliseconds a token of each part that took any, in the order of the bar."""
    net_ns = {share.category: share.ns_per_token for share in found.shares}
    sums = ((part, sum(net_ns.get(category, 0.0) for category in part.categories)) for part in PARTS)
    return [(part, total_ns / NS_PER_MS) for part, total_ns in sums if total_ns > 0]


def _caption(rows: Sequence[Attribution], names: Sequence[str]) -> str:
    loose = [name for found, name in zip(rows, names, strict=True) if found.are_bounds]
    bounds = f" Profiling changed too much for the parts of {', '.join(loose)} to be more than bounds." if loose else ""
    return f"Node times without the callbacks' own cost. The mark is the same token, unprofiled.{bounds}"


def _bars(rows: Sequence[Attribution], names: Sequence[str]) -> Canvas:
    longest_ms = max(max(found.node_ns, found.unprofiled_ns) for found in rows) / NS_PER_MS
    axis = Axis(0.0, longest_ms * 1.02, 0, WIDTH - 8)
    bottom = TOP + ROW_PX * len(rows) + 4
    used = [part for part in PARTS if any(part == other for found in rows for other, _ in parts_ms(found))]
    entries = [(part.name, f"var(--{part.hue})") for part in used]
    said = [_sentence(found, name) for found, name in zip(rows, names, strict=True)]
    canvas = Canvas(WIDTH, round(bottom + AXIS_PX + legend_height(entries)), TITLE, " ".join(said))
    for value in axis.ticks():
        canvas.line(axis.px(value), TOP, axis.px(value), bottom)
        anchor = "start" if value == 0 else "middle"
        canvas.text(axis.px(value), bottom + 20, f"{value:g} ms" if value == 0 else f"{value:g}", text_anchor=anchor)
    for place, (found, name) in enumerate(zip(rows, names, strict=True)):
        _row(canvas, axis, TOP + place * ROW_PX, found, name)
    legend(canvas, bottom + AXIS_PX, entries)
    return canvas


def _row(canvas: Canvas, axis: Axis, top: float, found: Attribution, name: str) -> None:
    start_ms, y, node_ms = 0.0, top + 30, found.node_ns / NS_PER_MS
    for part, part_ms in parts_ms(found):
        x1, x2 = axis.px(start_ms), axis.px(start_ms + part_ms)
        percent = f"{100 * part_ms / node_ms:.3g} %"
        tip = f"{name}: {part.name} {part_ms:.3g} ms, {percent}"
        canvas.bar(x1, y, x2 - x1, BAR_PX, tip, fill=f"var(--{part.hue})")
        if text_width(percent, PHONE_FONT) + 8 < x2 - x1:
            canvas.label((x1 + x2) / 2, y + BAR_PX / 2 + 4.5, percent, fill="var(--paper)", text_anchor="middle")
        start_ms += part_ms
    unprofiled_ms = found.unprofiled_ns / NS_PER_MS
    x = axis.px(unprofiled_ms)
    canvas.line(x, y - 5, x, y + BAR_PX + 5, stroke="var(--ink)", stroke_width=2.5)
    canvas.text(0, top + 20, name, fill="var(--ink)", font_size=15)
    canvas.text(
        canvas.width, top + 20, f"{unprofiled_ms:.1f} ms a token", fill="var(--ink)", font_size=15, text_anchor="end"
    )


def _sentence(found: Attribution, name: str) -> str:
    parts = ", ".join(f"{part.name} {part_ms:.3g} ms" for part, part_ms in parts_ms(found))
    return f"{name}, {found.unprofiled_ns / NS_PER_MS:.3g} ms a token unprofiled: {parts}."
