"""Two datasets, cell by cell: the first against each other one, in speed."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Finding, Pairing, Ratio, matched_ratio, unpaired_ratio
from harness.analysis.runs import Cell
from harness.records import Struct
from harness.terms import BurstKind, RunKind

SETUP_WORDS = {
    "fingerprint": "machine",
    "device": "device",
    "engine": "engine",
    "environment": "environment",
    "llama_cpp_commit": "llama.cpp commit",
    "build_flags": "build flags",
    "power_mode": "power mode",
    "origin": "origin",
    "schema": "schema",
}
MODEL_WORDS = {"sha256": "weights"}
TIMES = "\u00d7"


class Comparison(Struct, frozen=True):
    """A cell of another dataset over the same cell of the first one."""

    ratio: Ratio
    differs: tuple[str, ...]  # what besides time is not the same on both sides

    @property
    def words(self) -> str:
        """What may be said of it."""
        interval, finding = self.ratio.interval, self.ratio.finding
        match finding:
            case Finding.TOO_FEW:
                return "too few pairs to say more"
            case Finding.NO_DIFFERENCE:
                return f"no difference detected (one of {100 * (self.ratio.detectable or 0):.2g} % would have been)"
            case _:
                percent = 100 * abs(interval.value - 1)
                return f"{percent:.2g} % {finding.value}" if percent < 50 else finding.value


def comparisons(evidence: Evidence) -> tuple[Comparison, ...]:
    """One a cell and kind of burst that the first dataset and another one both measured, in the order of the plan."""
    return tuple(_comparisons(evidence))


def _comparisons(evidence: Evidence) -> Iterator[Comparison]:
    first = {_what(runs): runs for runs in evidence.timed if runs.cell.dataset == 0}
    for runs in evidence.timed:
        baseline = first.get(_what(runs))
        if not runs.cell.dataset or baseline is None:
            continue
        for quantity in (BurstKind.DECODE, BurstKind.PREFILL):
            ratio = matched_ratio(runs, baseline, quantity) or unpaired_ratio(runs, baseline, quantity)
            if ratio is not None:
                yield Comparison(ratio=ratio, differs=_differs(runs.cell, baseline.cell))


def _what(runs: CellRuns) -> tuple[RunKind, str, str, str, str, object, str]:
    """What must agree for two cells to be the same on different machines or releases."""
    model = runs.cell.model
    cell = runs.cell
    return runs.kind, cell.experiment, model.name, model.variant, model.file_type, cell.workload, cell.settings.variant


def _differs(one: Cell, other: Cell) -> tuple[str, ...]:
    setups = (words for name, words in SETUP_WORDS.items() if getattr(one.setup, name) != getattr(other.setup, name))
    models = (words for name, words in MODEL_WORDS.items() if getattr(one.model, name) != getattr(other.model, name))
    settings = ("settings",) if one.settings != other.settings else ()
    return (*setups, *models, *settings)


def lines(evidence: Evidence) -> tuple[str, ...]:
    """One sentence a decode speed, for the top of a report and for the terminal; empty for one dataset."""
    if len(evidence.datasets) < 2:
        return ()
    found = [one for one in comparisons(evidence) if one.ratio.quantity is BurstKind.DECODE]
    return tuple(_line(evidence, one) for one in found) or ("The datasets have no cell in common.",)


def _line(evidence: Evidence, one: Comparison) -> str:
    cell, interval = one.ratio.candidate, one.ratio.interval
    bounds = ""
    if interval.low is not None and interval.high is not None:
        bounds = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})"
    how = "" if one.ratio.pairing is Pairing.MATCHED else ", no runs that match"
    marks = f" [{', '.join(one.ratio.watermarks)}]" if one.ratio.watermarks else ""
    name = f"{evidence.names.cell(cell)}, {cell.experiment}"
    value = f"dataset {cell.dataset + 1} at {interval.value:.3f}{TIMES} of dataset 1{bounds}"
    return f"{name}: {value}: {one.words}{how}{marks}."
