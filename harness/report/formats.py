"""How values are written: for people by the style of their column, for CSV in full."""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup, escape

from harness.analysis.tables.base import Column, Style, Value

MISSING = "\u2013"
UNDERSIZED = 1e-4


def shown(value: Value, column: Column) -> str:
    """For HTML, Markdown and LaTeX."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    return _WRITERS[column.style](float(value))


def raw(value: Value) -> str:
    """For CSV: ten digits, which agree on every CPU; nothing where nothing was measured."""
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent: 32.2, 1,280, 0.0123."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def percent(fraction: float) -> str:
    """A fraction in percent: two digits below one, one above."""
    value = fraction * 100
    if value and abs(value) < UNDERSIZED:
        return "<0.0001"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


_WRITERS: dict[Style, Callable[[float], str]] = {
    Style.TEXT: lambda value: f"{value:g}",
    Style.COUNT: lambda value: f"{value:,.0f}",
    Style.FIXED1: lambda value: f"{value:.1f}",
    Style.FIXED2: lambda value: f"{value:.2f}",
    Style.SIGNIFICANT3: significant,
    Style.RATIO: lambda value: f"{value:.3f}",
    Style.PERCENT: percent,
    Style.BYTES_GB: lambda value: f"{value / 1e9:.3f}",
    Style.BILLIONS: lambda value: f"{value / 1e9:.2f}",
    Style.NS_AS_MS: lambda value: significant(value / 1e6),
    Style.NS_AS_S: lambda value: significant(value / 1e9),
}


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX would take for a command."""
    return "".join(_LATEX.get(character, character) for character in text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2013": "--",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
    "\u202f": r"\,",
}


def whole_names(text: str) -> Markup:
    """HTML in which names such as Llama-3.2-1B are not broken at their hyphens."""
    words = (
        f'<span class="nb">{escape(word)}</span>' if "-" in word else escape(word)
        for word in text.replace(" %", "\u00a0%").split(" ")
    )
    return Markup(" ").join(map(Markup, words))


def markdown(text: str) -> str:
    """Text that cannot break a row of a Markdown table, nor become markup."""
    for character in ("\\", "|", "*", "_", "`", "<", "[", "]"):
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
