"""One run in memory: what is needed for tables, with equal parts shared between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import msgspec

from harness.analysis.memory_phases import PhaseMemory
from harness.analysis.power import PackedPower
from harness.analysis.thermal import Peak
from harness.records import (
    BandwidthSample,
    MemoryLedger,
    ModelRef,
    NodeProfile,
    Provenance,
    RoutingTrace,
    Schedule,
    Settings,
    Struct,
    Taint,
    Termination,
    Workload,
)
from harness.standing import Standing, standing
from harness.terms import DeviceKind, Ending, EngineKind, EnvironmentKind, Origin, RunKind, TaintKind, Weights

T = TypeVar("T")


class Setup(Struct, frozen=True):
    """What must agree before runs may be pooled, besides model, workload and settings."""

    schema: int
    device: DeviceKind
    engine: EngineKind
    origin: Origin
    environment: EnvironmentKind
    llama_cpp_commit: str
    build_flags: str
    power_mode: str
    fingerprint: str


class Cell(Struct, frozen=True):
    """One row of a table: runs of one cell pool, whatever their prompt, seed, block or cohort."""

    dataset: int
    setup: Setup
    experiment: str
    group: str  # without the prompt: prompts of a text experiment pool
    model: ModelRef
    workload: Workload
    settings: Settings


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Largest values over the phases of a run, each source by itself; null where the platform has none."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    vm_hwm_bytes: int | None
    pss_bytes: int | None
    cgroup_peak_bytes: int | None
    phys_footprint_bytes: int | None
    device_rise_bytes: int | None
    available_fall_bytes: int | None
    major_faults: int | None
    ceiling_bytes: int | None


@dataclass(frozen=True, slots=True)
class Experts:
    """Whether the warm-up reached every expert."""

    total: int
    reached: int
    steady: bool
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A record without its bursts, which lie in `harness.analysis.bursts`."""

    run_id: str
    kind: RunKind
    suite: str
    cell: Cell
    schedule: Schedule
    prompt_id: str
    provenance: Provenance  # without its wall clock
    taken_at_utc: str
    termination: Termination
    taints: tuple[Taint, ...]
    load_ns: int | None
    experts: Experts | None
    memory: PeakMemory | None
    phases: bytes  # of a run that was alone: `harness.analysis.memory_phases.unpack`
    peaks: tuple[Peak, ...]  # of temperature
    power: PackedPower | None
    why_no_power: str
    profile: NodeProfile | None
    routing: RoutingTrace | None
    bandwidth: tuple[BandwidthSample, ...]

    @property
    def counts(self) -> bool:
        """True when the run ended well and nothing tainted it: it counts for speed and energy.

        A drift of the idle power only spoils net energy, which `harness.analysis.energy` leaves out run by run.
        """
        return standing(self.termination, self.taints, memory_limit_bytes=0) is Standing.SOUND

    @property
    def standing(self) -> Standing:
        """What the record is worth beside others of the same run; what a memory limit does is no accident."""
        return standing(self.termination, self.taints, self.cell.settings.memory_limit_bytes)

    def counts_but_for(self, spoiling: TaintKind) -> bool:
        """True when the run ended well and nothing but taints that do not matter here stands against it."""
        return self.termination.ending is Ending.OK and all(taint.kind is not spoiling for taint in self.taints)


class Shared:
    """Keeps one copy of equal frozen values: a hundred thousand runs have a few dozen settings between them."""

    def __init__(self) -> None:
        self._seen: dict[object, object] = {}

    def one(self, value: T) -> T:
        """The first value seen that equals `value`."""
        return cast(T, self._seen.setdefault((type(value), value), value))


def plain_workload(workload: Workload) -> Workload:
    """The workload without what may differ between runs that pool: the prompt and the seed of random tokens."""
    return msgspec.structs.replace(workload, prompt_id="", seed=0)


def peak_memory(
    ledger: MemoryLedger | None, environment: EnvironmentKind, phases: Sequence[PhaseMemory] = ()
) -> PeakMemory | None:
    """Peaks over the phases; rises and falls are against the phase `start`, between samples as the sampler saw them.

    A cgroup's peak counts only where the run had a cgroup of its own, in a container: a native process shares one with
    others, and its peak is older than the run.
    """
    if ledger is None:
        return None
    return PeakMemory(
        weights_bytes=ledger.weights_bytes,
        kv_bytes=ledger.kv_bytes,
        compute_bytes=ledger.compute_bytes,
        vm_hwm_bytes=_peak(ledger, "vm_hwm_bytes"),
        pss_bytes=_peak(ledger, "pss_bytes"),
        cgroup_peak_bytes=_peak(ledger, "cgroup_peak_bytes") if environment is EnvironmentKind.CONTAINER else None,
        phys_footprint_bytes=_peak(ledger, "phys_footprint_bytes"),
        device_rise_bytes=_extreme(phases, "device_rise_bytes", _change(ledger, "device_used_bytes", sign=1)),
        available_fall_bytes=_extreme(phases, "available_fall_bytes", _change(ledger, "available_bytes", sign=-1)),
        major_faults=_peak(ledger, "major_faults"),
        ceiling_bytes=ledger.ceiling_bytes,
    )


def _observed(ledger: MemoryLedger, field: str) -> list[int]:
    return [value for sample in ledger.samples if (value := getattr(sample, field)) is not None]


def _peak(ledger: MemoryLedger, field: str) -> int | None:
    return max(_observed(ledger, field), default=None)


def _change(ledger: MemoryLedger, field: str, sign: int) -> int | None:
    """Largest rise (sign 1) or fall (sign -1) since the first sample; null without two samples."""
    values = _observed(ledger, field)
    if len(values) < 2:
        return None
    return max(sign * (value - values[0]) for value in values[1:])


def _extreme(phases: Sequence[PhaseMemory], field: str, at_ends: int | None) -> int | None:
    values = [at_ends, *(getattr(phase, field) for phase in phases)]
    return max((value for value in values if value is not None), default=None)


def watermarks(cell: Cell) -> tuple[str, ...]:
    """Words that every row, figure and claim of this cell must carry; empty for measured runs of released weights."""
    words = []
    if cell.setup.engine is EngineKind.FAKE:
        words.append("fake engine")
    if cell.setup.origin is not Origin.MEASURED:
        words.append(cell.setup.origin.value)
    if cell.model.weights is Weights.PROXY:
        words.append("proxy")
    return tuple(words)
