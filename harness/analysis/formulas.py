"""Formulas of claims: each turns the evidence into observations, one a dataset and setup that has the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from harness.analysis.attribution import attribution
from harness.analysis.cells import CellRuns, Speed, experiment_shown
from harness.analysis.claims import Claim, FormulaName
from harness.analysis.cost_formulas import sampler_cost, waiting_cpu
from harness.analysis.crosscheck_formula import llama_bench_ratio
from harness.analysis.energy_ratios import EnergyRatio
from harness.analysis.evidence import Evidence
from harness.analysis.observation import Observation
from harness.analysis.profile_formulas import plain_profiles, routing_of_gap, routing_share
from harness.analysis.ratios import Ratio
from harness.analysis.runs import Cell, Run, Setup
from harness.analysis.sparsity import total_over_active
from harness.analysis.stats import Interval
from harness.terms import BurstKind, Quality, Weights

Formula = Callable[[Evidence, Claim], Iterator[Observation]]
Compared = TypeVar("Compared", Ratio, EnergyRatio)


def observe(evidence: Evidence, claim: Claim) -> tuple[Observation, ...]:
    """All observations that speak to a claim, whatever their machine and weights."""
    return tuple(FORMULAS[claim.formula](evidence, claim))


def _decode_ratio(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Paired ratios of plain cells: no variant of model or settings, the study's file type."""
    found = [ratio for ratio in evidence.ratios if _is_decode(ratio) and _meant(claim, ratio)]
    yield from map(_of_ratio, _speaking(found))


def _meant(claim: Claim, compared: Compared) -> bool:
    sides = (compared.candidate, compared.baseline)
    named = tuple(cell.model.name for cell in sides) == (claim.candidate, claim.baseline)
    return named and all(map(_plain, sides))


def _speaking(found: Sequence[Compared]) -> Iterator[Compared]:
    """Of each dataset and setup the first of the headline, or of the first experiment that has any.

    What a suite varies besides (context, threads, batch, prompts) asks other questions than a claim does.
    """
    for place in dict.fromkeys((one.candidate.dataset, one.candidate.setup) for one in found):
        here = [one for one in found if (one.candidate.dataset, one.candidate.setup) == place]
        shown = experiment_shown([one.candidate.experiment for one in here])
        yield next(one for one in here if one.candidate.experiment == shown)


def _plain(cell: Cell) -> bool:
    return not cell.model.variant and not cell.settings.variant and cell.model.file_type == "Q4_K_M"


def _of_ratio(ratio: Ratio) -> Observation:
    cells = (ratio.candidate, ratio.baseline)
    return Observation(interval=ratio.interval, cells=cells, run_ids=ratio.run_ids, remark=f"{ratio.interval.n} pairs")


def _proxy_over_released(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """A proxy against the released weights that it stands for."""
    for ratio in evidence.ratios:
        one, other = ratio.candidate.model, ratio.baseline.model
        kinds = (one.weights, other.weights) == (Weights.PROXY, Weights.RELEASED)
        if kinds and one.name == other.name and claim.candidate in ("", one.name) and _is_decode(ratio):
            yield _of_ratio(ratio)


def _is_decode(ratio: Ratio) -> bool:
    return ratio.quantity is BurstKind.DECODE


def _memory_of_ceiling(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Largest single source of a run over the memory of the machine; low and high are the range over runs."""
    for runs in evidence.alone:
        shares = [share for run in runs.runs if (share := _share_of_ceiling(run)) is not None]
        if runs.cell.model.name == claim.candidate and _plain(runs.cell) and shares:
            value = max(shares)
            interval = Interval(value=value, low=min(shares), high=value, n=len(shares))
            yield Observation(interval=interval, cells=(runs.cell,), run_ids=runs.run_ids, remark="range over runs")


def _share_of_ceiling(run: Run) -> float | None:
    memory = run.memory
    if memory is None or not memory.ceiling_bytes:
        return None
    peaks = (memory.vm_hwm_bytes, memory.device_rise_bytes, memory.available_fall_bytes, memory.phys_footprint_bytes)
    seen = [peak for peak in peaks if peak is not None]
    return max(seen) / memory.ceiling_bytes if seen else None


def _harness_overhead(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """The harness's own time outside the engine over window time: worst window of the worst cell of each setup."""
    worst: dict[tuple[int, Setup], tuple[CellRuns, Speed]] = {}
    for runs in evidence.timed:
        place = (runs.cell.dataset, runs.cell.setup)
        speed = runs.decode
        known = worst.get(place)
        if speed is None or claim.candidate not in ("", runs.cell.model.name):
            continue
        if known is None or speed.overhead_worst_fraction > known[1].overhead_worst_fraction:
            worst[place] = (runs, speed)
    for runs, speed in worst.values():
        value = speed.overhead_worst_fraction
        interval = Interval(value=value, low=value, high=value, n=speed.bursts)
        yield Observation(interval=interval, cells=(runs.cell,), run_ids=runs.run_ids, remark=_overhead_words(speed))


def _overhead_words(speed: Speed) -> str:
    words = f"the worst of {speed.bursts} windows, {100 * speed.overhead_fraction:.2g} % on the whole"
    taken = speed.interrupted_worst_fraction
    return words if taken is None else f"{words}; the system took at most {100 * taken:.2g} % of a window besides"


def _profile_additivity(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Net node times of a profiled token over the unprofiled token of the same round."""
    for runs in plain_profiles(evidence, claim.candidate):
        found = attribution(runs)
        if found is not None and found.additivity is not None:
            remark = f"{found.additivity.n} rounds of {evidence.names.cell(runs.cell)}"
            yield Observation(interval=found.additivity, cells=(runs.cell,), run_ids=found.run_ids, remark=remark)


def _energy_ratio(evidence: Evidence, claim: Claim) -> Iterator[Observation]:
    """Joules per generated token of plain cells, as one measuring sensor saw both."""
    meant = [one for one in evidence.energy_ratios if _meant(claim, one) and one.channel.quality is Quality.MEASURED]
    speaking = {_conditions(one.candidate) for one in _speaking(meant)}
    for ratio in meant:
        if _conditions(ratio.candidate) in speaking:  # bursts of any length: slow sensors need the long ones
            sides = (ratio.candidate, ratio.baseline)
            remark = f"by {ratio.channel}"
            yield Observation(interval=ratio.interval, cells=sides, run_ids=ratio.run_ids, remark=remark)


def _conditions(cell: Cell) -> tuple[object, ...]:
    """What a token's cost depends on besides the model."""
    work = cell.workload
    return cell.dataset, cell.setup, cell.settings, work.depth_tokens, work.batch_width, work.kv_type, work.source


FORMULAS: dict[FormulaName, Formula] = {
    FormulaName.DECODE_RATIO: _decode_ratio,
    FormulaName.ENERGY_RATIO: _energy_ratio,
    FormulaName.MEMORY_OF_CEILING: _memory_of_ceiling,
    FormulaName.ROUTING_SHARE: routing_share,
    FormulaName.TOTAL_OVER_ACTIVE: total_over_active,
    FormulaName.ROUTING_OF_GAP: routing_of_gap,
    FormulaName.PROFILE_ADDITIVITY: _profile_additivity,
    FormulaName.PROXY_OVER_RELEASED: _proxy_over_released,
    FormulaName.LLAMA_BENCH_RATIO: llama_bench_ratio,
    FormulaName.HARNESS_OVERHEAD: _harness_overhead,
    FormulaName.SAMPLER_COST: sampler_cost,
    FormulaName.WAITING_CPU: waiting_cpu,
}
