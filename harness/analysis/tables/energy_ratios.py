"""Energy ratios: joules per generated token, MoE over dense, as one and the same sensor saw both."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.tables.base import Column, Row, Style, Table, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="candidate", title="Model"),
    Column(key="baseline", title="Baseline"),
    Column(key="ratio", title="Ratio", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="candidate_j_per_token", title="Model", style=Style.SIGNIFICANT3, unit="J/token"),
    Column(key="baseline_j_per_token", title="Baseline", style=Style.SIGNIFICANT3, unit="J/token"),
    Column(key="scope", title="What the sensor covers"),
    Column(key="quality", title="Quality"),
)


def table(evidence: Evidence) -> Table:
    """One row a pair of cells and channel."""
    rows = [
        Row(
            values=(
                evidence.setup_name(ratio.candidate) or None,
                ratio.candidate.experiment,
                evidence.names.cell(ratio.candidate),
                evidence.names.cell(ratio.baseline),
                ratio.interval.value,
                ratio.interval.low,
                ratio.interval.high,
                ratio.candidate_j_per_token,
                ratio.baseline_j_per_token,
                ratio.channel.scope,
                ratio.channel.quality.value,
            ),
            marks=ratio.watermarks,
        )
        for ratio in evidence.energy_ratios
    ]
    absent = "no sensor saw two models at work" if evidence.energies else "no joule was measured"
    return make("energy_ratios", "Energy ratios", COLUMNS, rows, note=NOTE, absent=absent)


NOTE = "Gross joules per generated token, decode. Above 1 the model costs more energy than the baseline."
