"""What a figure is, and the frame that all of them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.analysis.evidence import Evidence
from harness.analysis.runs import Cell, Setup, watermarks
from harness.analysis.svg import Axis, Canvas, text_width
from harness.records import Struct

WIDTH = 560
KEY_PX, KEY_FONT, KEY_GAP = 24, 16, 40  # height of a line of a legend; wide enough for the letters of a phone


class Figure(Struct, frozen=True):
    """A drawing in two wrappings, and its words."""

    id: str
    title: str
    caption: str
    inline: str
    standalone: str
    marks: tuple[str, ...] = ()


class Missing(Struct, frozen=True):
    """A figure that the data do not allow, and why."""

    title: str
    reason: str


class FigureModule(Protocol):
    """A module of this package: figures of one setup of one dataset."""

    TITLE: str
    ABSENT: str  # why there is none

    def draw(self, evidence: Evidence, dataset: int, setup: Setup, suffix: str) -> Iterator[Figure]:
        """None where the data are missing; `suffix` makes ids of several setups unique."""


def finish(evidence: Evidence, id_: str, canvas: Canvas, caption: str, cells: Sequence[Cell]) -> Figure:
    """A canvas with its watermark, in both wrappings."""
    marks = tuple(dict.fromkeys(mark for cell in cells for mark in watermarks(cell)))
    machine = evidence.setup_name(cells[0])
    if marks:
        words = " \u00b7 ".join(marks)
        canvas.text(canvas.width - 2, 14, words, text_anchor="end", font_size=12, font_style="italic")
    return Figure(
        id=id_,
        title=canvas.title + (f" ({machine})" if machine else ""),
        caption=caption,
        inline=canvas.inline(f"figure-{id_}"),
        standalone=canvas.standalone(f"figure-{id_}"),
        marks=marks,
    )


def grid(canvas: Canvas, x_axis: Axis, y_axis: Axis, x_unit: str, y_unit: str) -> None:
    """Horizontal lines with values, ticks below, units at the ends."""
    for value in y_axis.ticks():
        y = y_axis.px(value)
        canvas.line(x_axis.start_px, y, x_axis.end_px, y)
        canvas.text(x_axis.start_px - 8, y + 4.5, f"{value:g}", text_anchor="end")
    for value in x_axis.ticks():
        x = x_axis.px(value)
        canvas.line(x, y_axis.start_px, x, y_axis.start_px + 5, stroke="var(--soft)")
        canvas.text(x, y_axis.start_px + 21, f"{value:g}", text_anchor="middle")
    canvas.line(x_axis.start_px, y_axis.start_px, x_axis.end_px, y_axis.start_px, stroke="var(--soft)")
    canvas.text(x_axis.end_px, y_axis.start_px + 38, x_unit, text_anchor="end")
    canvas.text(0, 14, y_unit)


def legend(canvas: Canvas, top: float, entries: Sequence[tuple[str, str]]) -> None:
    """Names beside squares of their colour, line by line below `top`."""
    for x, line, (name, colour) in _placed(entries):
        y = top + line * KEY_PX
        canvas.bar(x, y + 6, 12, 12, name, fill=colour)
        canvas.text(x + 18, y + 16.5, name)


def legend_height(entries: Sequence[tuple[str, str]]) -> float:
    """What `legend` takes."""
    return KEY_PX * (1 + max((line for _, line, _ in _placed(entries)), default=0))


def _placed(entries: Sequence[tuple[str, str]]) -> Iterator[tuple[float, int, tuple[str, str]]]:
    x, line = 0.0, 0
    for entry in entries:
        width = text_width(entry[0], KEY_FONT) + KEY_GAP
        if x and x + width > WIDTH + KEY_GAP / 2:
            x, line = 0.0, line + 1
        yield x, line, entry
        x += width
