"""Router width: what a wider router costs by the clock, beside what the profiler's shares predict."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.router_width import RouterWidth, router_widths
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="wide", title="Model"),
    Column(key="narrow", title="Against"),
    Column(key="growth", title="Router wider by", style=Style.FIXED2, unit="times"),
    Column(key="narrow_share", title="MoE block's share of node times, narrow", style=Style.PERCENT, unit="%"),
    Column(key="wide_share", title="wide", style=Style.PERCENT, unit="%"),
    Column(key="router_alone", title="Router alone would slow by", style=Style.RATIO),
    Column(key="predicted", title="Predicted slowdown", style=Style.RATIO),
    Column(key="measured", title="Measured slowdown", style=Style.RATIO),
    Column(key="measured_low", title="95 % from", style=Style.RATIO),
    Column(key="measured_high", title="to", style=Style.RATIO),
    Column(key="agreement", title="Extra time, measured / predicted", style=Style.RATIO),
    Column(key="pairs", title="Pairs", style=Style.COUNT, details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a pair of models."""
    rows = []
    for found in router_widths(evidence):
        marks = tuple(dict.fromkeys(watermarks(found.wide) + watermarks(found.narrow)))
        rows.append(Row(values=_values(evidence, found), marks=marks))
    return make("router_width", "Router width", COLUMNS, rows, note=NOTE, absent=ABSENT)


def _values(evidence: Evidence, found: RouterWidth) -> tuple[Value, ...]:
    return (
        evidence.setup_name(found.wide) or None,
        evidence.names.cell(found.wide),
        evidence.names.cell(found.narrow),
        found.growth,
        found.narrow_share.value,
        found.wide_share.value,
        found.router_alone,
        found.predicted,
        found.measured.value,
        found.measured.low,
        found.measured.high,
        found.agreement,
        found.measured.n,
    )


ABSENT = "no two models differed in the number of experts alone, by four times or more, both profiled"
NOTE = (
    "A check of the profiler from outside: the two models differ in nothing but how many experts there are to choose "
    "from, and took turns without a profiler. What lies outside the MoE block takes as long in both, so its shares "
    "predict the slowdown; extra time near 1.00 of what was predicted means that the shares are true. Within the block "
    "the multiplications by selected experts grow too, as each walks over all experts that exist."
)
