"""Throughput: tokens per second by total work over total time."""

from __future__ import annotations

from harness.analysis.cells import CellRuns, Speed
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="decode_tokens_per_s", title="Decode", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="decode_low_tokens_per_s", title="95 % from", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="decode_high_tokens_per_s", title="to", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="decode_all_tokens_per_s", title="All sequences", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="decode_bursts", title="Bursts", style=Style.COUNT),
    Column(key="prefill_tokens_per_s", title="Prefill", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="prefill_bursts", title="Bursts", style=Style.COUNT, details=True),
    Column(key="runs", title="Runs", style=Style.COUNT),
    Column(key="source", title="From", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a cell whose speed counts."""
    rows = [Row(values=_values(evidence, runs), marks=watermarks(runs.cell)) for runs in evidence.timed]
    return make("throughput", "Throughput", COLUMNS, rows, note=NOTE, absent=ABSENT)


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        evidence.names.cell(runs.cell),
        *_decode(runs.decode, runs.cell.workload.batch_width),
        runs.prefill.tokens_per_s.value if runs.prefill else None,
        runs.prefill.bursts if runs.prefill else None,
        len(runs.numbers),
        runs.kind.value,
    )


def _decode(speed: Speed | None, width: int) -> tuple[Value, ...]:
    if speed is None:
        return (None,) * 5
    rate = speed.tokens_per_s
    return rate.value, rate.low, rate.high, width * rate.value if width > 1 else None, speed.bursts


ABSENT = "no run with a counted burst, those of experiments that set memory limits aside"
NOTE = (
    "Counted tokens over counted time. The interval is of the time per token across bursts and processes; where bursts "
    "of several models alternate, their ratio is known better than either speed. Where sequences are decoded together, "
    "speeds and ratios are those of one of them."
)
