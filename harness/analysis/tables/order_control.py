"""Order control: whole processes in a fixed order and reversed, beside the rounds."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.order_control import OrderControl, order_controls
from harness.analysis.runs import watermarks
from harness.analysis.stats import Interval
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="candidate", title="Model"),
    Column(key="baseline", title="Baseline"),
    Column(key="first_ratio", title="Model first", style=Style.RATIO),
    Column(key="first_low", title="95 % from", style=Style.RATIO, details=True),
    Column(key="first_high", title="to", style=Style.RATIO, details=True),
    Column(key="first_blocks", title="Blocks", style=Style.COUNT),
    Column(key="second_ratio", title="Baseline first", style=Style.RATIO),
    Column(key="second_low", title="95 % from", style=Style.RATIO, details=True),
    Column(key="second_high", title="to", style=Style.RATIO, details=True),
    Column(key="second_blocks", title="Blocks", style=Style.COUNT),
    Column(key="effect", title="One over the other", style=Style.RATIO),
    Column(key="effect_low", title="95 % from", style=Style.RATIO),
    Column(key="effect_high", title="to", style=Style.RATIO),
    Column(key="finding", title="Finding"),
    Column(key="rounds_ratio", title="In rounds", style=Style.RATIO),
    Column(key="rounds_low", title="95 % from", style=Style.RATIO),
    Column(key="rounds_high", title="to", style=Style.RATIO),
)
NOTE = (
    "Decode tokens per second of the model over the baseline, one fresh process after the other, nothing beside it. A "
    "study in one fixed order knows only one of the first two ratios; where they differ, it measured its order too. A "
    "block is a whole pass; the interval of the quotient is Welch's. Rounds: the same pair in bursts that took turns."
)


def table(evidence: Evidence) -> Table:
    """One row a pair of models that ran in both orders."""
    rows = [
        Row(
            values=_values(evidence, found),
            marks=tuple(dict.fromkeys(watermarks(found.candidate) + watermarks(found.baseline))),
        )
        for found in order_controls(evidence)
    ]
    absent = "no MoE and dense model ran alone in both orders often enough (suite paper does)"
    return make("order_control", "Order control", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, found: OrderControl) -> tuple[Value, ...]:
    return (
        evidence.setup_name(found.candidate) or None,
        found.candidate.experiment,
        evidence.names.cell(found.candidate),
        evidence.names.cell(found.baseline),
        *_interval(found.first),
        found.first.n,
        *_interval(found.second),
        found.second.n,
        *_interval(found.effect),
        found.finding,
        *_interval(found.rounds.interval if found.rounds else None),
    )


def _interval(interval: Interval | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
