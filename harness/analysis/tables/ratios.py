"""Ratios: MoE against dense, and variants against the plain model, from pairs."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Ratio
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="candidate", title="Model"),
    Column(key="baseline", title="Baseline"),
    Column(key="quantity", title="Speed of"),
    Column(key="ratio", title="Ratio", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="half_width", title="±", style=Style.PERCENT, unit="%"),
    Column(key="finding", title="Finding"),
    Column(key="candidate_tokens_per_s", title="Model", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="baseline_tokens_per_s", title="Baseline", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="candidate_bursts", title="n model", style=Style.COUNT, details=True),
    Column(key="baseline_bursts", title="n baseline", style=Style.COUNT, details=True),
    Column(key="pairs", title="Pairs", style=Style.COUNT),
    Column(key="pairing", title="Paired by", details=True),
    Column(key="cohorts", title="Cohorts", style=Style.COUNT, details=True),
    Column(key="lag1", title="Lag-1 autocorrelation", style=Style.FIXED2, details=True),
    Column(key="block_length", title="Rounds a block", style=Style.COUNT, details=True),
    Column(key="order_effect", title="Order effect", style=Style.PERCENT, unit="%", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a ratio."""
    rows = [Row(values=_values(evidence, ratio), marks=ratio.watermarks) for ratio in evidence.ratios]
    return make("ratios", "Ratios", COLUMNS, rows, note=NOTE, absent="no two models were measured in pairs")


def _values(evidence: Evidence, ratio: Ratio) -> tuple[Value, ...]:
    interval = ratio.interval
    return (
        evidence.setup_name(ratio.candidate) or None,
        ratio.candidate.experiment,
        evidence.names.cell(ratio.candidate),
        evidence.names.cell(ratio.baseline),
        ratio.quantity.value,
        interval.value,
        interval.low,
        interval.high,
        interval.half_width_relative,
        ratio.finding.value,
        ratio.candidate_tokens_per_s,
        ratio.baseline_tokens_per_s,
        ratio.candidate_bursts,
        ratio.baseline_bursts,
        interval.n,
        ratio.pairing.value,
        interval.cohorts,
        interval.lag1,
        interval.block_length,
        ratio.order_effect.value if ratio.order_effect else None,
    )


NOTE = (
    "Model over baseline in tokens per second: above 1 the model is faster. Geometric mean of pairs "
    "(bursts of one round, or runs "
    "of one block); 95 % interval by bootstrap over blocks of consecutive rounds and over cohorts of fresh processes. "
    "Where the interval includes 1 no difference was detected; ± is then the smallest that would have been."
)
