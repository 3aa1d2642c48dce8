"""The cross-check as evidence: this harness over llama-bench, model by model, on the machine of the records."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from harness.analysis import crosscheck as checking
from harness.analysis.claims import Claim
from harness.analysis.crosscheck import Agreement
from harness.analysis.evidence import Evidence
from harness.analysis.load import Dataset
from harness.analysis.observation import Observation
from harness.analysis.runs import Cell
from harness.analysis.stats import Interval
from harness.crosscheck_file import Crosscheck, CrosscheckCell
from harness.terms import EngineKind


def llama_bench_ratio(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """One a model of each crosscheck.json that has any pair."""
    for dataset in evidence.datasets:
        check = dataset.crosscheck
        if check is None:
            continue
        measured = [(cell, interval) for cell in check.cells if (interval := checking.ratio(cell)) is not None]
        for cell, interval in measured:
            if claim.candidate in ("", cell.model.name):
                yield _observation(dataset, check, cell, interval)


def _observation(dataset: Dataset, check: Crosscheck, cell: CrosscheckCell, interval: Interval) -> Observation:
    return Observation(
        interval=interval,
        cells=(_cell(dataset, check, cell),),
        run_ids=(),
        remark=f"{interval.n} pairs of {cell.model.name}, {interval.cohorts} pairs of processes",
        faults=tuple(_faults(dataset, check, interval)),
    )


def _faults(dataset: Dataset, check: Crosscheck, interval: Interval) -> Iterator[str]:
    """Why this can't satisfy a claim, whatever its numbers."""
    if checking.agreement(check, interval) is Agreement.OTHER_COMMIT:
        yield "llama-bench was not built from the harness's commit of llama.cpp"
    if check.harness is not None and check.harness.host.fingerprint not in {
        run.provenance.host.fingerprint for run in dataset.runs
    }:
        yield "the cross-check is of another machine than the records beside it"
    for cell in check.cells:
        if checking.ratio(cell) is None:
            why = cell.incomplete.splitlines()[0] if cell.incomplete else "no pair"
            yield f"{cell.model.name} was not measured ({why})"


def _cell(dataset: Dataset, check: Crosscheck, cell: CrosscheckCell) -> Cell:
    """The records' first cell with the model, the build and the engine of the cross-check."""
    like = dataset.runs[0].cell
    facts = check.harness
    setup = msgspec.structs.replace(
        like.setup,
        engine=EngineKind.FAKE if check.synthetic else EngineKind.LLAMA_CPP,
        llama_cpp_commit=facts.llama_cpp_commit if facts else "",
        build_flags=facts.build_flags if facts else "",
    )
    workload = msgspec.structs.replace(
        like.workload,
        decode_tokens=cell.decode_tokens,
        depth_tokens=cell.depth_tokens,
        settle_tokens=cell.settle_tokens,
    )
    settings = msgspec.structs.replace(like.settings, threads=cell.threads, variant="")
    return msgspec.structs.replace(
        like,
        setup=setup,
        experiment="crosscheck",
        group="crosscheck",
        model=cell.model,
        workload=workload,
        settings=settings,
    )
