"""Side by side: the first dataset against each other one, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Ratio, unpaired_ratio
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import BurstKind, RunKind

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
    Column(key="finding", title="Finding"),
)


def table(evidence: Evidence) -> Table:
    """One row a cell that the first dataset and another one both measured."""
    rows = [Row(values=_values(evidence, ratio), marks=ratio.watermarks) for ratio in _ratios(evidence)]
    absent = "one dataset was given; two or more are set side by side"
    if len(evidence.datasets) > 1:
        absent = "the datasets have no cell in common"
    return make("compare", "Side by side", COLUMNS, rows, note=NOTE if rows else "", absent=absent)


def _ratios(evidence: Evidence) -> Iterator[Ratio]:
    first = {_what(runs): runs for runs in evidence.timed if runs.cell.dataset == 0}
    for runs in evidence.timed:
        baseline = first.get(_what(runs))
        if runs.cell.dataset and baseline:
            for quantity in (BurstKind.DECODE, BurstKind.PREFILL):
                ratio = unpaired_ratio(runs, baseline, quantity)
                if ratio:
                    yield ratio


def _what(runs: CellRuns) -> tuple[RunKind, str, str, str, str, object, str]:
    """What must agree for two cells to be the same on different machines or releases."""
    model = runs.cell.model
    cell = runs.cell
    return runs.kind, cell.experiment, model.name, model.variant, model.file_type, cell.workload, cell.settings.variant


def _values(evidence: Evidence, ratio: Ratio) -> tuple[Value, ...]:
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
        ratio.finding.value,
    )


NOTE = (
    "Nothing was alternated between datasets, so the interval joins those of both sides and knows nothing "
    "of what differed "
    "between the two sessions."
)
