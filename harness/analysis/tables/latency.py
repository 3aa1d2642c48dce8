"""Latency: time to the first token, time between tokens, and their tails where n allows."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="prompt_tokens", title="Prompt", style=Style.COUNT, unit="tokens"),
    Column(key="first_token_p50_ns", title="First token p50", style=Style.NS_AS_MS, unit="ms"),
    Column(key="first_token_p95_ns", title="p95", style=Style.NS_AS_MS, unit="ms"),
    Column(key="first_token_n", title="n", style=Style.COUNT),
    Column(key="inter_token_p50_ns", title="Next token p50", style=Style.NS_AS_MS, unit="ms"),
    Column(key="inter_token_p95_ns", title="p95", style=Style.NS_AS_MS, unit="ms"),
    Column(key="inter_token_p99_ns", title="p99", style=Style.NS_AS_MS, unit="ms"),
    Column(key="inter_token_n", title="n", style=Style.COUNT),
    Column(key="sampling_ns_per_token", title="Arg-max", style=Style.NS_AS_MS, unit="ms", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a cell whose speed counts."""
    rows = [Row(values=_values(evidence, runs), marks=watermarks(runs.cell)) for runs in evidence.timed]
    return make("latency", "Latency", COLUMNS, rows, note=NOTE, absent="no run with a counted burst")


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    first = runs.first_token_percentiles
    following = runs.token_percentiles
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        evidence.names.cell(runs.cell),
        runs.cell.workload.prompt_tokens if first.n else None,
        first.p50_ns,
        first.p95_ns,
        first.n or None,
        following.p50_ns,
        following.p95_ns,
        following.p99_ns,
        following.n or None,
        runs.decode.sampling_ns_per_token if runs.decode else None,
    )


NOTE = (
    "First token: the whole prefill window of the prompt. Next token: one decode call; choosing the token "
    "(arg-max) is timed "
    "apart. p95 needs 20 values, p99 needs 100; otherwise the place stays empty."
)
