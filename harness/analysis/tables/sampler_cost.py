"""Sampler cost: decode speed with and without the sampler process."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.sampler_cost import SamplerCost
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="watched_tokens_per_s", title="With", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="unwatched_tokens_per_s", title="Without", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="ratio", title="With / without", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="pairs", title="Pairs", style=Style.COUNT),
    Column(key="processes", title="Processes", style=Style.COUNT, details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a model that decoded both ways."""
    rows = [Row(values=_values(evidence, cost), marks=watermarks(cost.cell)) for cost in evidence.sampler_costs]
    absent = "no experiment paused the sampler in turn: ./artifact reproduce --suite telemetry"
    return make("sampler_cost", "Sampler cost", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, cost: SamplerCost) -> tuple[Value, ...]:
    return (
        evidence.setup_name(cost.cell) or None,
        evidence.names.cell(cost.cell),
        cost.watched_tokens_per_s,
        cost.unwatched_tokens_per_s,
        cost.interval.value,
        cost.interval.low,
        cost.interval.high,
        cost.interval.n,
        cost.interval.cohorts,
    )


NOTE = (
    "Pairs are two bursts of one worker in one round, in random order, the sampler process at work in one and paused "
    "in the other. Below 1 sampling costs speed."
)
