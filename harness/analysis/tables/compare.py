"""Side by side: the first dataset against each other one, cell by cell."""

from __future__ import annotations

from harness.analysis.compare import Comparison, comparisons
from harness.analysis.evidence import Evidence
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make

COLUMNS = (
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="quantity", title="Speed of"),
    Column(key="candidate", title="Dataset"),
    Column(key="baseline", title="First dataset"),
    Column(key="candidate_tokens_per_s", title="Dataset", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="baseline_tokens_per_s", title="First", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="ratio", title="Ratio", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="half_width", title="\u00b1", style=Style.PERCENT, unit="%"),
    Column(key="finding", title="Finding"),
    Column(key="pairs", title="Pairs", style=Style.COUNT),
    Column(key="processes", title="Processes", style=Style.COUNT, details=True),
    Column(key="pairing", title="Paired by"),
    Column(key="differs", title="What differs"),
)
NOTE = (
    "Dataset over first dataset in tokens per second: above 1 the dataset is faster. Runs match where block, prompt "
    "and round agree; the interval is a bootstrap over rounds and over pairs of processes. Where none match, the "
    "intervals of both sides are joined. Nothing was alternated between datasets, so what differed between the two "
    "sessions as a whole is in the ratio too. Joules of two datasets are not divided by each other."
)


def table(evidence: Evidence) -> Table:
    """One row a cell that the first dataset and another one both measured."""
    rows = [Row(values=_values(evidence, one), marks=one.ratio.watermarks) for one in comparisons(evidence)]
    absent = "one dataset was given; two or more are set side by side"
    if len(evidence.datasets) > 1:
        absent = "the datasets have no cell in common"
    return make("compare", "Side by side", COLUMNS, rows, note=NOTE if rows else "", absent=absent)


def _values(evidence: Evidence, one: Comparison) -> tuple[Value, ...]:
    ratio = one.ratio
    return (
        ratio.candidate.experiment,
        evidence.names.cell(ratio.candidate),
        ratio.quantity.value,
        evidence.setup_name(ratio.candidate),
        evidence.setup_name(ratio.baseline),
        ratio.candidate_tokens_per_s,
        ratio.baseline_tokens_per_s,
        ratio.interval.value,
        ratio.interval.low,
        ratio.interval.high,
        ratio.interval.half_width_relative,
        ratio.finding.value,
        ratio.interval.n,
        ratio.interval.cohorts,
        ratio.pairing.value,
        ", ".join(one.differs) or None,
    )
