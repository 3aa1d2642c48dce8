"""Measurement quality: what the harness cost, and how steady the machine was."""

from __future__ import annotations

from harness.analysis.cells import CellRuns, Speed
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="overhead_fraction", title="Harness overhead", style=Style.PERCENT, unit="%"),
    Column(key="overhead_worst_fraction", title="worst window", style=Style.PERCENT, unit="%"),
    Column(key="interrupted_worst_fraction", title="taken away, worst window", style=Style.PERCENT, unit="%"),
    Column(key="variation", title="Variation", style=Style.PERCENT, unit="%"),
    Column(key="worst_over_median", title="Worst / median", style=Style.FIXED2),
    Column(key="lag1", title="Lag-1 autocorrelation", style=Style.FIXED2),
    Column(key="drift", title="Drift", style=Style.PERCENT, unit="%"),
    Column(key="major_faults", title="Major faults", style=Style.COUNT),
    Column(key="involuntary_per_burst", title="Preempted a burst", style=Style.FIXED1),
    Column(key="foreign_fraction", title="Others' CPU", style=Style.PERCENT, unit="% of a core"),
    Column(key="waiting_fraction", title="Waiting worker", style=Style.PERCENT, unit="% of a core"),
    Column(key="experts", title="Experts warmed"),
)


def table(evidence: Evidence) -> Table:
    """One row a cell whose decode speed counts."""
    rows = [
        Row(values=_values(evidence, runs, runs.decode), marks=watermarks(runs.cell))
        for runs in evidence.timed
        if runs.decode
    ]
    return make("quality", "Measurement quality", COLUMNS, rows, note=NOTE, absent="no run with a counted decode burst")


def _values(evidence: Evidence, runs: CellRuns, speed: Speed) -> tuple[Value, ...]:
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        evidence.names.cell(runs.cell),
        speed.overhead_fraction,
        speed.overhead_worst_fraction,
        speed.interrupted_worst_fraction,
        speed.variation,
        speed.worst_over_median,
        speed.tokens_per_s.lag1,
        speed.drift,
        speed.major_faults,
        speed.involuntary_per_burst,
        speed.foreign_fraction,
        runs.waiting_fraction,
        _experts(runs),
    )


def _experts(runs: CellRuns) -> str | None:
    """Smallest coverage of experts by the warm-up of any run; null for dense models."""
    seen = [run.experts for run in runs.runs if run.experts and run.experts.total]
    if not seen:
        return None
    least = min(seen, key=lambda experts: experts.reached / experts.total)
    return f"{least.reached} / {least.total}"


NOTE = (
    "Over decode bursts. Overhead: window time outside llama.cpp's calls and arg-max in which the harness ran; taken "
    "away: in which the system let others run. Neither is part of a token's time. Variation, lag-1 "
    "autocorrelation and "
    "drift are of the time per token from burst to burst; pairs cancel the drift. Waiting worker: CPU time that a "
    "worker's process took while others had their turn. Experts warmed: all must be."
)
