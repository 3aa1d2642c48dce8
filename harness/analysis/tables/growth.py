"""Growth: how much longer a token takes per GB of total bytes at equal active bytes, and the other way round."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.growth import Growth, growths
from harness.analysis.runs import watermarks
from harness.analysis.stats import Interval
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment"),
    Column(key="members", title="Models", style=Style.COUNT),
    Column(key="rounds", title="Rounds", style=Style.COUNT),
    Column(key="total_low_gb", title="Total from", style=Style.FIXED2, unit="GB", details=True),
    Column(key="total_high_gb", title="to", style=Style.FIXED2, unit="GB", details=True),
    Column(key="token_ns", title="Mean token", style=Style.NS_AS_MS, unit="ms"),
    Column(key="total_ns_per_gb", title="Per GB of total", style=Style.NS_AS_MS, unit="ms"),
    Column(key="total_low_ns_per_gb", title="95 % from", style=Style.NS_AS_MS, unit="ms"),
    Column(key="total_high_ns_per_gb", title="to", style=Style.NS_AS_MS, unit="ms"),
    Column(key="total_fraction_per_gb", title="Of the mean token", style=Style.PERCENT, unit="%"),
    Column(key="active_ns_per_gb", title="Per GB of active", style=Style.NS_AS_MS, unit="ms"),
    Column(key="active_low_ns_per_gb", title="95 % from", style=Style.NS_AS_MS, unit="ms"),
    Column(key="active_high_ns_per_gb", title="to", style=Style.NS_AS_MS, unit="ms"),
)


def table(evidence: Evidence) -> Table:
    """One row a family."""
    rows = []
    for found in growths(evidence):
        marks = tuple(dict.fromkeys(mark for cell in found.cells for mark in watermarks(cell)))
        rows.append(Row(values=_values(evidence, found), marks=marks))
    return make("growth", "Growth per GB", COLUMNS, rows, note=NOTE, absent="no family varied its bytes in rounds")


def _values(evidence: Evidence, found: Growth) -> tuple[Value, ...]:
    share = found.fraction_per_total_gb
    return (
        evidence.setup_name(found.cells[0]) or None,
        found.cells[0].experiment,
        len(found.cells),
        found.rounds,
        *found.total_gb,
        found.mean_ns,
        *_interval(found.ns_per_total_gb),
        share,
        *_interval(found.ns_per_active_gb),
    )


def _interval(interval: Interval | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)


NOTE = (
    "Least squares of time per token on total and active bytes, as far as each varies in a family; one estimate a "
    "round, then averaged. If cost followed total bytes alone, a GB of active bytes at equal total would be free."
)
