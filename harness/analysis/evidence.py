"""Everything that tables, figures and claims are made from, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from harness.analysis.cells import CellRuns, pool
from harness.analysis.energy import CellEnergy
from harness.analysis.energy_ratios import EnergyRatio, energies, energy_ratios
from harness.analysis.load import Dataset, Loaded, load
from harness.analysis.names import ModelNames, setup_label
from harness.analysis.ratios import Ratio, ratios
from harness.analysis.runs import Cell, Run, Setup
from harness.analysis.sampler_cost import SamplerCost, sampler_costs
from harness.crosscheck_file import Crosscheck
from harness.records import Host
from harness.terms import RunKind, TaintKind


class Evidence:
    """Loaded datasets with the frames derived from them."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Evidence:
        """Loads datasets; errors as `harness.analysis.load.load`."""
        return cls(load(paths))

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Datasets in the order given."""
        return self.loaded.datasets

    @property
    def crosschecks(self) -> tuple[Crosscheck, ...]:
        """What llama-bench said of the same cells, where it was asked."""
        return tuple(dataset.crosscheck for dataset in self.datasets if dataset.crosscheck is not None)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order of datasets and plans."""
        return self.loaded.runs

    @cached_property
    def cells(self) -> tuple[CellRuns, ...]:
        """Counted runs by cell and kind."""
        return pool(self.loaded)

    def of_kind(self, kind: RunKind) -> Iterator[CellRuns]:
        """Cells measured by runs of one kind."""
        return (runs for runs in self.cells if runs.kind is kind)

    @cached_property
    def alone(self) -> tuple[CellRuns, ...]:
        """Cells that had the machine to themselves, for memory: only swapping spoils it."""
        solo = pool(self.loaded, lambda run: run.kind is RunKind.SOLO and run.counts_but_for(TaintKind.SWAPPED))
        return tuple(runs for runs in solo if not self.sets_limits(runs.cell))

    @cached_property
    def timed(self) -> tuple[CellRuns, ...]:
        """Cells whose speed counts: from rounds; from solo runs where a setup has no rounds of that model.

        Experiments that set memory limits stand in tables of their own.
        """
        in_rounds = {_place(runs.cell) for runs in self.of_kind(RunKind.ROUNDS)}
        solo = [runs for runs in self.of_kind(RunKind.SOLO) if _place(runs.cell) not in in_rounds]
        free = (runs for runs in (*self.of_kind(RunKind.ROUNDS), *solo) if not self.sets_limits(runs.cell))
        return tuple(runs for runs in free if runs.decode or runs.prefill)

    def sets_limits(self, cell: Cell) -> bool:
        """Whether the cell's experiment sets memory limits, on this cell or on others (module `ceiling`)."""
        return (cell.dataset, cell.experiment) in self._experiments_with_limits

    @cached_property
    def _experiments_with_limits(self) -> frozenset[tuple[int, str]]:
        limited = (run.cell for run in self.runs if run.cell.settings.memory_limit_bytes)
        return frozenset((cell.dataset, cell.experiment) for cell in limited)

    @cached_property
    def ratios(self) -> tuple[Ratio, ...]:
        """Ratios between cells whose speed counts."""
        return ratios(self.timed)

    def ratios_of(self, cell: Cell) -> Iterator[Ratio]:
        """Ratios whose candidate is `cell`."""
        return (ratio for ratio in self._ratios_by_candidate.get(cell, ()))

    @cached_property
    def _ratios_by_candidate(self) -> dict[Cell, list[Ratio]]:
        found: dict[Cell, list[Ratio]] = {}
        for ratio in self.ratios:
            found.setdefault(ratio.candidate, []).append(ratio)
        return found

    @cached_property
    def energies(self) -> dict[CellRuns, CellEnergy]:
        """Energy of the cells that were timed and had power readings."""
        return energies(self.cells)

    @cached_property
    def energy_ratios(self) -> tuple[EnergyRatio, ...]:
        """Ratios of joules per generated token."""
        return energy_ratios(self.energies)

    @cached_property
    def sampler_costs(self) -> tuple[SamplerCost, ...]:
        """What the sampler process costs, where an experiment paused it in turn."""
        return sampler_costs(self.of_kind(RunKind.ROUNDS))

    @property
    def why_no_power(self) -> tuple[str, ...]:
        """Reasons why timed runs have no power readings, each once."""
        timed = (run for runs in self.timed for run in runs.runs)
        return tuple(dict.fromkeys(run.why_no_power for run in timed if run.why_no_power))

    @cached_property
    def hosts(self) -> dict[str, Host]:
        """Host of each fingerprint, as the first run of the plan tells it."""
        found: dict[str, Host] = {}
        for run in self.runs:
            found.setdefault(run.provenance.host.fingerprint, run.provenance.host)
        return found

    @cached_property
    def setups(self) -> tuple[tuple[int, Setup], ...]:
        """Dataset and setup of all runs, in the order of their first run."""
        return tuple(dict.fromkeys((run.cell.dataset, run.cell.setup) for run in self.runs))

    @cached_property
    def names(self) -> ModelNames:
        """How models and cells are called in tables."""
        return ModelNames(tuple(dict.fromkeys(run.cell for run in self.runs)))

    def setup_name(self, cell: Cell) -> str:
        """Short name of dataset and setup; empty where there is only one."""
        if len(self.setups) == 1:
            return ""
        place = self.setups.index((cell.dataset, cell.setup))
        return f"{place + 1}: {setup_label(cell.setup, self.hosts[cell.setup.fingerprint])}"


def _place(cell: Cell) -> tuple[int, Setup, str, str, str]:
    return cell.dataset, cell.setup, cell.model.name, cell.model.variant, cell.settings.variant
