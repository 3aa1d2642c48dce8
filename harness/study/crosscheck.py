"""The cross-check: the same cells through this harness and through llama-bench of the same commit, turn by turn.

Both processes are alive together; in every round, in seeded random order, the worker and llama-bench do the same, while
the other stands still: decode one token that does not count, then a burst from the same depth. (llama-bench warms up
with one token in every test and then puts back a copy of the filled cache, so nothing is prefilled.) Which of them
loads first changes from block to block, because the memory that a process finds depends on what is taken already. Raw
times go to crosscheck.json; ratios are made of them in the analysis.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from harness import crosscheck_file
from harness.crosscheck_file import (
    CROSSCHECK,
    CROSSCHECK_SCHEMA,
    BenchFacts,
    Crosscheck,
    CrosscheckCell,
    CrosscheckRound,
)
from harness.errors import EnvironmentLacking, UsageError
from harness.options import StudyOptions
from harness.protocol import Task, Turn, WorkerFacts
from harness.records import Measured, ModelRef, RunSpec
from harness.study import plan as planning
from harness.study import prepare, weights
from harness.study.conduct import WeightsListener
from harness.study.environments.base import Environment
from harness.study.link import Limits, Link, LinkBroken
from harness.study.llama_bench import BenchBroken, LlamaBench, bench_decode_tokens, bench_depth_tokens
from harness.study.store import replace_file
from harness.terms import BurstKind, RunKind
from harness.units import human_bytes

SUITE = "crosscheck"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model with what both sides are told."""

    spec: RunSpec
    model_path: Path
    blocks: int
    rounds: int  # of a block, that count; one goes before


def crosscheck(
    root: Path, llama_bench: Path, options: StudyOptions, listener: WeightsListener, say: Say, rounds: int = 0
) -> Crosscheck:
    """Run every cell of the suite through both, and write crosscheck.json after each.

    Args:
        root: of the checkout.
        llama_bench: the program.
        options: device, weights, suite (its rounds are what is run; `SUITE` by default) and `out`, the dataset folder.
        listener: told of weights that are brought.
        say: told of each cell.
        rounds: of a block, that count; 0: as the suite says.

    Raises:
        EnvironmentLacking: there is no such program, or the disk is full.
        UsageError, ConfigError, IntegrityError: as for a study.
    """
    program = llama_bench.resolve()
    if not (program.is_file() and os.access(program, os.X_OK)):
        cure = "`./artifact build-llama-bench` makes one of the same commit"
        raise EnvironmentLacking("no such program", where=str(llama_bench), cure=cure)
    environment = prepare.environment(root, options)
    found = Crosscheck(
        schema=CROSSCHECK_SCHEMA,
        synthetic=options.fake,
        taken_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        harness=None,
        bench=None,
        cells=(),
    )
    drafted = prepare.draft(root, options, (RunKind.ROUNDS,))
    _refuse_open_counts(drafted.plan, options.suite)
    options.out.mkdir(parents=True, exist_ok=True)
    for cell in _cells(drafted, environment, listener, rounds):
        say(f"{cell.spec.model.name}: {cell.blocks} x {cell.rounds} rounds beside llama-bench")
        pair = _Pair(root, program, environment, cell)
        measured = pair.run()
        found = msgspec.structs.replace(
            found,
            cells=(*found.cells, measured),
            harness=found.harness or pair.harness,
            bench=found.bench or pair.bench,
        )
        replace_file(options.out / CROSSCHECK, crosscheck_file.encode(found))
        if measured.incomplete:
            say(f"{cell.spec.model.name}: {measured.incomplete.splitlines()[0]}")
    return found


def _refuse_open_counts(plan: planning.Plan, suite: str) -> None:
    for experiment in (cohort.experiment for cohort in plan.cohorts):
        if experiment.decode_tokens <= experiment.settle_tokens:
            where = f"suite {suite}, experiment {experiment.name}"
            cure = "set decode_tokens above settle_tokens"
            raise UsageError("llama-bench needs a fixed number of tokens that count", where=where, cure=cure)


def _cells(drafted: prepare.Draft, environment: Environment, listener: WeightsListener, rounds: int) -> Iterator[Cell]:
    located = weights.locate(drafted.registry, drafted.plan.model_keys(), drafted.folders, listener, on_fetch=listener)
    refs: dict[planning.ModelKey, ModelRef] = {key: one.ref for key, one in located.items()}
    seen = set()
    for cohort in drafted.plan.cohorts:
        specs = planning.bind(drafted.plan, cohort, refs, environment.build_id, environment.kind)
        for cell, spec in zip(cohort.cells, specs, strict=True):
            if cell.label not in seen:
                seen.add(cell.label)
                experiment = cohort.experiment
                path = located[cell.key].path
                blocks, wanted = experiment.blocks, rounds or experiment.rounds
                yield Cell(spec=_as_llama_bench(spec), model_path=path, blocks=blocks, rounds=wanted)


def _as_llama_bench(spec: RunSpec) -> RunSpec:
    """With the context that llama-bench makes, just what its test fills, and a prompt that fits it.

    llama.cpp plans a batch as long as the context allows, and lays the tensors of a decode step where those of that
    batch would be: at other distances, which caches may feel.
    """
    workload = spec.workload
    settings = msgspec.structs.replace(
        spec.settings, context_tokens=bench_depth_tokens(workload) + bench_decode_tokens(workload)
    )
    warm = msgspec.structs.replace(workload, prompt_tokens=max(1, workload.depth_tokens))
    return msgspec.structs.replace(spec, settings=settings, workload=warm)


class _Pair:
    """Both sides of one cell."""

    def __init__(self, root: Path, program: Path, environment: Environment, cell: Cell) -> None:
        self._root, self._program, self._environment, self._cell = root, program, environment, cell
        self.harness: WorkerFacts | None = None
        self.bench: BenchFacts | None = None

    def run(self) -> CrosscheckCell:
        """All blocks; where one breaks, the cell says why and ends."""
        blocks: list[tuple[CrosscheckRound, ...]] = []
        loads_first = load_order(self._cell)
        incomplete = self._too_large()
        try:
            while not incomplete and len(blocks) < self._cell.blocks:
                blocks.append(self._block(len(blocks), loads_first[len(blocks)]))
        except LinkBroken as broken:
            incomplete = f"the worker ended: {broken.termination.ending.value}, {broken.termination.message}"
        except BenchBroken as broken:
            incomplete = str(broken)
        spec = self._cell.spec
        return CrosscheckCell(
            model=spec.model,
            threads=spec.settings.threads,
            depth_tokens=bench_depth_tokens(spec.workload),
            decode_tokens=bench_decode_tokens(spec.workload),
            settle_tokens=0,
            blocks=tuple(blocks),
            harness_loaded_first=loads_first[: len(blocks)],
            incomplete=incomplete,
        )

    def _too_large(self) -> str:
        one_bytes = self._cell.spec.model.size_bytes * planning.RESIDENT_FACTOR + planning.RESIDENT_EXTRA_BYTES
        available_bytes = psutil.virtual_memory().available
        if 2 * one_bytes <= available_bytes:
            return ""
        needed = human_bytes(2 * one_bytes)
        return f"both sides at once need about {needed} of memory, {human_bytes(available_bytes)} are available"

    def _block(self, number: int, harness_loads_first: bool) -> tuple[CrosscheckRound, ...]:
        cell = self._cell
        order = _draw(cell, number)
        # llama-bench loads within its first turn: there the worker comes after
        firsts = [False, *(order.random() < 0.5 for _ in range(cell.rounds))]
        with ExitStack() as alive:
            link = self._worker(alive) if harness_loads_first else None
            bench = alive.enter_context(
                closing(LlamaBench(self._root, self._program, cell.model_path, cell.spec, len(firsts)))
            )
            theirs = [bench.turn()]
            link = link or self._worker(alive)
            _burst(link, 0, position=1)
            theirs += [_round(link, bench, place, first) for place, first in enumerate(firsts[1:], 1)]
            self.bench = bench.facts
            measured = link.finish()[0].measured
        return _rounds(measured, cell.spec.workload.settle_tokens, firsts, theirs)

    def _worker(self, alive: ExitStack) -> Link:
        link = Link(self._environment, Task(spec=self._cell.spec, model_path=str(self._cell.model_path)), Limits())
        alive.callback(link.abandon)
        self.harness = link.ready().facts
        return link


def load_order(cell: Cell) -> tuple[bool, ...]:
    """Of each block, whether the harness loads before llama-bench: half of the blocks, in seeded random order."""
    order = [number % 2 == 0 for number in range(cell.blocks)]
    _draw(cell, "load").shuffle(order)
    return tuple(order)


def _draw(cell: Cell, what: object) -> random.Random:
    return random.Random(f"{cell.spec.schedule.seed}:{cell.spec.run_id}:{what}")  # noqa: S311 - an order


def _round(link: Link, bench: LlamaBench, number: int, harness_first: bool) -> tuple[tuple[int, ...], int]:
    if harness_first:
        _burst(link, number, position=0)
        return bench.turn()
    theirs = bench.turn()
    _burst(link, number, position=1)
    return theirs


def _burst(link: Link, number: int, position: int) -> None:
    link.turn(Turn(kind=BurstKind.DECODE, round=number, position=position))


def _rounds(
    measured: Measured, settle_tokens: int, firsts: list[bool], theirs: list[tuple[tuple[int, ...], int]]
) -> tuple[CrosscheckRound, ...]:
    tokens = {burst.round: burst.token_ns[settle_tokens:] for burst in measured.bursts}
    return tuple(
        CrosscheckRound(
            round=number,
            harness_first=first,
            token_ns=tokens[number],
            repetition_ns=repetition_ns,
            suspended_ns=suspended_ns,
        )
        for number, (first, (repetition_ns, suspended_ns)) in enumerate(zip(firsts, theirs, strict=True))
    )
