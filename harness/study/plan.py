"""The plan, pure: suite and device become cells, cells become cohorts in seeded random order, cohorts become runs."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from harness.records import SCHEMA_VERSION, ModelRef, RunSpec, Schedule, Settings, Workload
from harness.study.config import Device, Experiment, Order, Suite
from harness.terms import BurstKind, DeviceKind, EngineKind, EnvironmentKind, RunKind, TokenSource, Weights

CONTEXT_STEP_TOKENS = 256  # llama.cpp pads the cache to this
DECODE_ROOM_TOKENS = 256
SHARED_KINDS = (RunKind.ROUNDS, RunKind.PROFILE)  # what is compared between models is measured in the same moments
COHORT_MEMORY_SHARE = 0.85  # of what is available may be taken by workers that are alive together
RESIDENT_FACTOR = 1.2  # a copy of the weights; pages of a mapped file are clean and can be dropped
RESIDENT_EXTRA_BYTES = 400_000_000  # interpreter, KV cache, compute buffers


@dataclass(frozen=True, kw_only=True, order=True)
class ModelKey:
    """Which weights a cell wants, before anyone has looked whether they are there."""

    name: str
    variant: str = ""  # "experts=16,used=4", "tiny", "clone"
    file_type: str
    weights: Weights

    @property
    def label(self) -> str:
        """For people: `olmoe-1b-7b[experts=16] Q4_K_M proxy`."""
        variant = f"[{self.variant}]" if self.variant else ""
        return f"{self.name}{variant} {self.file_type} {self.weights.value}"


SizeOf = Callable[[ModelKey], int]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Model, workload and settings: what is measured once a block."""

    key: ModelKey
    workload: Workload
    settings: Settings
    prompt_id: str = ""

    @property
    def label(self) -> str:
        """For people, with what the experiment varies."""
        return " ".join(part for part in (self.key.label, self.settings.variant) if part)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Workers alive together, and the rounds that they take."""

    experiment: Experiment
    block: int
    cells: tuple[Cell, ...]
    order: int = 0
    seed: int = 1

    @property
    def name(self) -> str:
        """Unique in a plan."""
        digest = hashlib.sha256("|".join(cell.label for cell in self.cells).encode()).hexdigest()[:6]
        return f"{self.experiment.name}-{self.block}-{digest}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What of this machine shapes the plan."""

    threads: int
    memory_available_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cohorts in the order in which they run."""

    suite: str
    device: DeviceKind
    seed: int
    machine: Machine
    cohorts: tuple[Cohort, ...]

    def model_keys(self) -> tuple[ModelKey, ...]:
        """Every model that is needed, once."""
        return tuple(sorted({cell.key for cohort in self.cohorts for cell in cohort.cells}))


def build(
    name: str, suite: Suite, device: Device, weights: Weights, machine: Machine, size_of: SizeOf, seed: int = 1
) -> Plan:
    """Cells of every experiment, grouped into cohorts, shuffled block by block.

    Args:
        name: of the suite.
        suite: what to measure.
        device: how the machine is used.
        weights: what the command asks for; an experiment may insist on its own.
        machine: threads and memory.
        size_of: file size in bytes, which decides whether a group fits into memory together.
        seed: of the order.
    """
    cohorts = [
        cohort
        for experiment in suite.experiments
        for cohort in _cohorts(experiment, suite, device, weights, machine, size_of)
    ]
    ordered: list[Cohort] = []
    for block in sorted({cohort.block for cohort in cohorts}):
        units = _units([cohort for cohort in cohorts if cohort.block == block])
        random.Random(f"{seed}:{block}").shuffle(units)  # noqa: S311 - an order, no secret
        ordered.extend(cohort for unit in units for cohort in unit)
    numbered = tuple(replace(cohort, order=order, seed=seed) for order, cohort in enumerate(ordered))
    return Plan(suite=name, device=device.kind, seed=seed, machine=machine, cohorts=numbered)


def _units(members: Sequence[Cohort]) -> list[list[Cohort]]:
    """What is shuffled: each cohort by itself, but an experiment with an order of its own as a whole."""
    units: list[list[Cohort]] = []
    whole: dict[str, list[Cohort]] = {}
    for cohort in members:
        if cohort.experiment.order is Order.RANDOM:
            units.append([cohort])
        elif cohort.experiment.name in whole:
            whole[cohort.experiment.name].append(cohort)
        else:
            units.append(whole.setdefault(cohort.experiment.name, [cohort]))
    for unit in whole.values():
        if unit[0].block % 2:
            unit.reverse()
    return units


def _cohorts(
    experiment: Experiment,
    suite: Suite,
    device: Device,
    weights: Weights,
    machine: Machine,
    size_of: SizeOf,
) -> Iterable[Cohort]:
    def fits(members: Sequence[Cell]) -> bool:
        return suite.tiny or resident_bytes(members, size_of) <= COHORT_MEMORY_SHARE * machine.memory_available_bytes

    cells = tuple(_cells(experiment, suite, device, weights, machine))
    for group in _groups(experiment, cells):
        companies = _together(group, fits) if experiment.kind in SHARED_KINDS else _alone(group)
        for block in range(experiment.blocks):
            yield from (Cohort(experiment=experiment, block=block, cells=company) for company in companies)


def _groups(experiment: Experiment, cells: tuple[Cell, ...]) -> list[tuple[Cell, ...]]:
    """All cells together, but prompt by prompt for text: the same prompt is what is compared."""
    if not experiment.prompts:
        return [cells]
    prompts = sorted({cell.prompt_id for cell in cells})
    return [tuple(cell for cell in cells if cell.prompt_id == prompt) for prompt in prompts]


def _together(group: tuple[Cell, ...], fits: Callable[[Sequence[Cell]], bool]) -> list[tuple[Cell, ...]]:
    """Who is alive together: the models at the first value of what is varied, and at one other value.

    So MoE and dense models meet at every value, and every value meets the first, with which it is compared; not all at
    once, which would leave few rounds for each and need the memory of all. Where memory forbids even that, a value is
    measured by itself, and at last each cell.
    """
    first, *others = _by_value(group)
    companies = [first + other if fits(first + other) else other for other in others]
    if not any(company[: len(first)] == first for company in companies):
        companies.insert(0, first)
    return [one for company in companies for one in ([company] if fits(company) else _alone(company))]


def _by_value(group: tuple[Cell, ...]) -> list[tuple[Cell, ...]]:
    """The models of each value of what an experiment varies: workload, settings or file type."""
    values: dict[object, list[Cell]] = {}
    for cell in group:
        values.setdefault((cell.workload, cell.settings, cell.key.file_type), []).append(cell)
    return [tuple(cells) for cells in values.values()]


def _alone(group: tuple[Cell, ...]) -> list[tuple[Cell, ...]]:
    return [(cell,) for cell in group]


def resident_bytes(cells: Sequence[Cell], size_of: SizeOf) -> float:
    """Memory that workers of these cells take while they are alive together, about."""
    return sum(size_of(cell.key) * RESIDENT_FACTOR + RESIDENT_EXTRA_BYTES for cell in cells)


def _cells(experiment: Experiment, suite: Suite, device: Device, weights: Weights, machine: Machine) -> Iterable[Cell]:
    variations = [dict(pairs) for pairs in itertools.product(*_axes(experiment))]
    prompts = experiment.prompts or ("",)
    for key in _keys(experiment, suite, weights):
        for varied, prompt_id in itertools.product(variations, prompts):
            yield _cell(experiment, device, machine, key, varied, prompt_id)


def _axes(experiment: Experiment) -> list[list[tuple[str, Any]]]:
    fields = msgspec.structs.asdict(experiment.vary)
    return [[(name, value) for value in values] for name, values in fields.items() if values]


def _keys(experiment: Experiment, suite: Suite, weights: Weights) -> Iterable[ModelKey]:
    wanted = (experiment.weights or weights,) if not experiment.both_weights else (Weights.RELEASED, Weights.PROXY)
    for text, file_type, kind in itertools.product(experiment.models, experiment.file_types, wanted):
        name, variant = parse_model(text)
        if suite.tiny and kind is Weights.PROXY:
            variant = ",".join(part for part in ("tiny", variant) if part)
        if experiment.both_weights and kind is Weights.PROXY:
            variant = "clone"
        yield ModelKey(name=name, variant=variant, file_type=file_type, weights=kind)


def parse_model(text: str) -> tuple[str, str]:
    """`olmoe-1b-7b[experts=16,used=4]` -> name and variant."""
    name, bracket, rest = text.partition("[")
    return (name, rest.rstrip("]")) if bracket else (text, "")


def _cell(
    experiment: Experiment, device: Device, machine: Machine, key: ModelKey, varied: dict[str, Any], prompt_id: str
) -> Cell:
    workload = Workload(
        prompt_tokens=experiment.prompt_tokens,
        decode_tokens=experiment.decode_tokens,
        decode_seconds=max(experiment.decode_seconds, device.burst_seconds),
        depth_tokens=experiment.depth_tokens,
        settle_tokens=experiment.settle_tokens,
        source=TokenSource.TEXT if prompt_id else TokenSource.RANDOM,
        prompt_id=prompt_id,
    )
    settings = Settings(
        threads=min(device.threads or machine.threads, machine.threads),  # more would wait for one another
        gpu_layers=device.gpu_layers,
        use_mmap=device.use_mmap if experiment.use_mmap is None else experiment.use_mmap,
        repack=device.repack,
        variant=" ".join(f"{name}={_plain(value)}" for name, value in varied.items()),
    )
    workload, settings = _apply(workload, varied), _apply(settings, varied)
    settings = msgspec.structs.replace(settings, context_tokens=_context_tokens(workload))
    return Cell(key=key, workload=workload, settings=settings, prompt_id=prompt_id)


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value)).lower()


def _apply(struct: Any, varied: dict[str, Any]) -> Any:
    return msgspec.structs.replace(
        struct, **{name: value for name, value in varied.items() if name in struct.__struct_fields__}
    )


def _context_tokens(workload: Workload) -> int:
    if workload.source is TokenSource.TEXT:
        return 2048
    longest = max(workload.prompt_tokens, workload.depth_tokens) + max(workload.decode_tokens, DECODE_ROOM_TOKENS)
    return -(-longest // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS


def turns(cohort: Cohort, round_number: int) -> tuple[BurstKind, ...]:
    """What each worker does in one round; decode with and without something in seeded random order."""
    experiment = cohort.experiment
    match experiment.kind:
        case RunKind.PROFILE:
            return _pair(cohort, round_number, BurstKind.PROFILE)
        case RunKind.ROUTING | RunKind.BANDWIDTH:
            return (BurstKind.DECODE,)
        case _:
            first = (BurstKind.PREFILL,) if _prefills(experiment, round_number) else ()
            second = _pair(cohort, round_number, BurstKind.UNWATCHED) if experiment.sampler_cost else ()
            return first + (second or (BurstKind.DECODE,))


def _prefills(experiment: Experiment, round_number: int) -> bool:
    return experiment.prefill_every > 0 and round_number % experiment.prefill_every == 0


def _pair(cohort: Cohort, round_number: int, other: BurstKind) -> tuple[BurstKind, ...]:
    pair = [BurstKind.DECODE, other]
    random.Random(f"{cohort.seed}:{cohort.name}:{round_number}:turns").shuffle(pair)  # noqa: S311
    return tuple(pair)


def round_order(cohort: Cohort, round_number: int) -> list[int]:
    """Seeded random order of the workers that take part in a round: indices into `cohort.cells`.

    All of them start (round -1) and prefill; elsewhere one of the rotating models stands for all of these, so that the
    pair that matters most is measured more often.
    """
    order = list(range(len(cohort.cells)))
    random.Random(f"{cohort.seed}:{cohort.name}:{round_number}").shuffle(order)  # noqa: S311
    rotating = cohort.experiment.rotating
    if not rotating or round_number < 0 or _prefills(cohort.experiment, round_number):
        return order
    absent = set(rotating) - {rotating[round_number % len(rotating)]}
    return [place for place in order if cohort.cells[place].key.name not in absent]


def bind(
    plan: Plan, cohort: Cohort, refs: Mapping[ModelKey, ModelRef], build_id: str, environment: EnvironmentKind
) -> tuple[RunSpec, ...]:
    """The runs of a cohort, once the bytes of every model are known.

    Args:
        plan: the whole plan.
        cohort: one of its cohorts.
        refs: model of each key.
        build_id: identifies llama.cpp's build and the image.
        environment: how workers are started.
    """
    engine = EngineKind.FAKE if build_id == EngineKind.FAKE else EngineKind.LLAMA_CPP
    return tuple(_spec(plan, cohort, cell, refs[cell.key], (build_id, environment, engine)) for cell in cohort.cells)


def _spec(
    plan: Plan, cohort: Cohort, cell: Cell, ref: ModelRef, where: tuple[str, EnvironmentKind, EngineKind]
) -> RunSpec:
    build_id, environment, engine = where
    schedule = Schedule(
        group=_group(cohort, cell),
        cohort=cohort.name,
        block=cohort.block,
        order=cohort.order,
        rounds=cohort.experiment.rounds,
        seed=cohort.seed,
    )
    spec = RunSpec(
        run_id="",
        schema=SCHEMA_VERSION,
        suite=plan.suite,
        experiment=cohort.experiment.name,
        kind=cohort.experiment.kind,
        device=plan.device,
        environment=environment,
        engine=engine,
        model=ref,
        workload=cell.workload,
        settings=cell.settings,
        schedule=schedule,
    )
    placeless = msgspec.structs.replace(spec, schedule=msgspec.structs.replace(schedule, order=0))
    digest = hashlib.sha256(msgspec.json.encode((build_id, placeless))).hexdigest()
    return msgspec.structs.replace(spec, run_id=digest[:16])


def _group(cohort: Cohort, cell: Cell) -> str:
    return "/".join(part for part in (cohort.experiment.name, cell.prompt_id) if part)
