"""Drawing: a small SVG writer with fixed bytes, because layout by installed fonts would differ from machine to machine.

Colours are CSS variables, so that one figure serves light, dark and print; every mark may carry a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

MIN_TICKS = 3
LOG_DIGITS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
GLYPH_WIDTH = 0.56  # mean advance over font size of common sans-serif digits and letters
HUES = {  # of parts of a whole: on light paper, on dark paper
    "blue": ("#3867a8", "#78a6e6"),
    "sky": ("#93b5dc", "#3f6294"),
    "orange": ("#cf5a21", "#f59157"),
    "teal": ("#0f766e", "#4fd1c0"),
    "mint": ("#57a79c", "#2c8a80"),
    "lime": ("#a5cf9f", "#567f55"),
    "sand": ("#d3b063", "#b08d42"),
    "slate": ("#4d5766", "#aab3c2"),
    "violet": ("#7a59a8", "#b394e0"),
    "rose": ("#cf8ea3", "#8f5468"),
    "grey": ("#b5b3ad", "#5a5d64"),
}
LIGHT, DARK = ("".join(f";--{name}:{pair[place]}" for name, pair in HUES.items()) for place in (0, 1))
STYLE = f"""
:root{{--ink:#1c1d1f;--soft:#6b6e74;--line:#d9d7d2;--accent:#0f766e;--paper:#fdfcfa{LIGHT}}}
@media (prefers-color-scheme:dark){{
:root{{--ink:#e9e7e2;--soft:#9a9ca3;--line:#34373d;--accent:#5eead4;--paper:#15171a{DARK}}}
}}
svg{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;background:var(--paper)}}
"""


def number(value: float) -> str:
    """A coordinate: at most two decimals, no trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels, linear or logarithmic."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def px(self, value: float) -> float:
        """Where a value lies."""
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """Round values within the axis; on a logarithmic one the coarsest set that shows at least three."""
        if self.log:
            found = [self._within(_decades(self.low, self.high, digits)) for digits in LOG_DIGITS]
            return next((ticks for ticks in found if len(ticks) >= MIN_TICKS), found[-1])
        step = nice_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return self._within([i * step for i in range(first, last + 1)])

    def _within(self, values: Sequence[float]) -> list[float]:
        return [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def _decades(low: float, high: float, digits: Sequence[float]) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in digits]


def nice_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def padded(values: Sequence[float], share: float = 0.08, *, log: bool = False) -> tuple[float, float]:
    """Low and high of an axis that holds all values with a margin."""
    low, high = min(values), max(values)
    if log:
        factor = (high / low) ** share if high > low else 1.5
        return low / factor, high * factor
    margin = (high - low) * share or abs(high) * 0.5 or 1.0
    return low - margin, high + margin


@dataclass
class Canvas:
    """Collects elements; `inline` is for HTML, `standalone` a file of its own."""

    width: int
    height: int
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def add(self, element: str, attributes: Mapping[str, str | float], content: str = "", tip: str = "") -> None:
        """One element; underscores of attribute names become hyphens, `tip` becomes a tooltip."""
        written = "".join(
            f" {name.replace('_', '-')}={quoteattr(value if isinstance(value, str) else number(value))}"
            for name, value in attributes.items()
        )
        inner = escape(content) + (f"<title>{escape(tip)}</title>" if tip else "")
        self.parts.append(f"<{element}{written}>{inner}</{element}>" if inner else f"<{element}{written}/>")

    @contextmanager
    def group(self, **style: str | float) -> Iterator[None]:
        """What is drawn within shares a style: shorter than saying it a thousand times."""
        self.add("g", style)
        self.parts[-1] = self.parts[-1].removesuffix("/>") + ">"
        yield
        self.parts.append("</g>")

    def line(self, x1: float, y1: float, x2: float, y2: float, **style: str | float) -> None:
        """A straight line."""
        place = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
        self.add("line", {**place, "stroke": "var(--line)", "stroke_width": 1, **style})

    def text(self, x: float, y: float, content: str, **style: str | float) -> None:
        """A line of text at its baseline, with a halo that keeps lines off it."""
        halo: dict[str, str | float] = {
            "paint_order": "stroke",
            "stroke": "var(--paper)",
            "stroke_width": 4,
            "stroke_linejoin": "round",
        }
        self.add("text", {"x": x, "y": y, "fill": "var(--soft)", "font_size": 13, **halo, **style}, content)

    def label(self, x: float, y: float, content: str, **style: str | float) -> None:
        """A line of text on a filled area, where a halo would only blur it; the mouse reaches what lies below."""
        self.add("text", {"x": x, "y": y, "font_size": 13, "pointer_events": "none", **style}, content)

    def dot(self, x: float, y: float, tip: str, **style: str | float) -> None:
        """A mark with a tooltip."""
        self.add("circle", {"cx": x, "cy": y, "r": 5.5, "fill": "var(--ink)", **style}, tip=tip)

    def bar(self, x: float, y: float, width: float, height: float, tip: str, **style: str | float) -> None:
        """A rectangle with a tooltip."""
        place = {"x": x, "y": y, "width": max(width, 0.0), "height": height}
        self.add("rect", {**place, "fill": "var(--ink)", **style}, tip=tip)

    def inline(self, name: str) -> str:
        """The element for a page that defines the colours; `name` makes its ids unique."""
        label = f'role="img" aria-labelledby="{name}-t {name}-d"'
        head = f'<title id="{name}-t">{escape(self.title)}</title><desc id="{name}-d">{escape(self.description)}</desc>'
        return f'<svg viewBox="0 0 {self.width} {self.height}" {label}>{head}{"".join(self.parts)}</svg>'

    def standalone(self, name: str) -> str:
        """A file that shows the same by itself."""
        sized = f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
        body = self.inline(name).replace("<svg ", sized, 1).replace("</title>", f"</title><style>{STYLE}</style>", 1)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def text_width(text: str, size: float = 13) -> float:
    """Rough width in pixels: enough to keep labels apart."""
    return len(text) * size * GLYPH_WIDTH


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near those wanted, at least `gap` apart, within bounds; for labels of close points."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    below = low - gap
    for i in order:
        placed[i] = below = max(wanted[i], below + gap)
    above = high + gap
    for i in reversed(order):
        placed[i] = above = min(placed[i], above - gap)
    return placed
