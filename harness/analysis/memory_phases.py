"""Memory phase by phase: what llama.cpp has planned by then, beside what each source saw in that phase.

Sources overlap (resident pages hold mapped files, unified memory holds GPU buffers) and are never added.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from harness.records import Channel, MemoryLedger, MemorySample, Struct, Telemetry
from harness.terms import EnvironmentKind, Quantity

PHASES = {
    "loaded": "load",
    "warm": "warm-up",
    "prefill": "prefill",
    "decode": "decode",
    "finished": "rest of the run",
}
AVAILABLE = ("MemAvailable", "available")  # channels of /proc/meminfo and of macOS
_DEVICE_WORDS = ("NvMapMemUsed", "memory")  # ends of the names of channels of a device's memory


class PhaseMemory(Struct, frozen=True, array_like=True):
    """One phase of one run; planned sizes are 0 before they are allocated, observed ones null without a source."""

    phase: str
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    vm_hwm_bytes: int | None
    rss_bytes: int | None  # at the end of the phase, as PSS
    pss_bytes: int | None
    cgroup_peak_bytes: int | None  # of the run so far
    phys_footprint_bytes: int | None  # highest of the run so far
    device_rise_bytes: int | None  # against the start of the run, as the fall
    available_fall_bytes: int | None
    major_faults: int | None  # in this phase
    hwm_of_phase: bool


def phase_memory(
    ledger: MemoryLedger | None, environment: EnvironmentKind, telemetry: Telemetry | None
) -> tuple[PhaseMemory, ...]:
    """Phases in their order; empty without a ledger.

    Args:
        ledger: samples at the ends of phases.
        environment: a cgroup tells of this run only in a container, where it has one of its own.
        telemetry: what the sampler saw in between; its extremes count beside the samples.
    """
    if ledger is None or len(ledger.samples) < 2:
        return ()
    own_cgroup = environment is EnvironmentKind.CONTAINER
    seen = _Machine(ledger.samples[0], telemetry)
    return tuple(
        _phase(ledger, before, sample, seen, own_cgroup=own_cgroup) for before, sample in pairwise(ledger.samples)
    )


def _phase(
    ledger: MemoryLedger, before: MemorySample, sample: MemorySample, seen: _Machine, *, own_cgroup: bool
) -> PhaseMemory:
    opened = sample.phase != "loaded"  # the context, with its cache and compute buffers
    return PhaseMemory(
        phase=PHASES.get(sample.phase, sample.phase),
        weights_bytes=ledger.weights_bytes,
        kv_bytes=ledger.kv_bytes if opened else 0,
        compute_bytes=ledger.compute_bytes if opened else 0,
        vm_hwm_bytes=sample.vm_hwm_bytes,
        rss_bytes=sample.rss_bytes,
        pss_bytes=sample.pss_bytes,
        cgroup_peak_bytes=sample.cgroup_peak_bytes if own_cgroup else None,
        phys_footprint_bytes=_largest((sample.phys_footprint_peak_bytes, sample.phys_footprint_bytes)),
        device_rise_bytes=seen.device_rise(before, sample),
        available_fall_bytes=seen.available_fall(before, sample),
        major_faults=_difference(sample.major_faults, before.major_faults),
        hwm_of_phase=sample.hwm_of_phase,
    )


class _Machine:
    """Memory of the whole machine and of its devices over a run, against what it was at the start."""

    def __init__(self, start: MemorySample, telemetry: Telemetry | None) -> None:
        channels = [c for c in (telemetry.channels if telemetry else ()) if c.quantity is Quantity.MEMORY_BYTES]
        self._start = start
        self._available = [channel for channel in channels if channel.name in AVAILABLE]
        self._devices = [channel for channel in channels if channel.name.endswith(_DEVICE_WORDS)]

    def available_fall(self, before: MemorySample, sample: MemorySample) -> int | None:
        """Deepest fall of the memory that new work could get."""
        falls = [_difference(self._start.available_bytes, sample.available_bytes)]
        for channel in self._available:
            base, values = self._within(channel, before, sample)
            falls += [round(base - min(values))] if values else []
        return _largest(falls)

    def device_rise(self, before: MemorySample, sample: MemorySample) -> int | None:
        """Highest rise of one device's memory; several devices are not added."""
        rises = [_difference(sample.device_used_bytes, self._start.device_used_bytes)]
        for channel in self._devices:
            base, values = self._within(channel, before, sample)
            rises += [round(max(values) - base)] if values else []
        return _largest(rises)

    def _within(self, channel: Channel, before: MemorySample, sample: MemorySample) -> tuple[float, tuple[float, ...]]:
        """The last reading before the start of the run (or the first one), and those of the phase."""
        first, stop = bisect_left(channel.at_ns, before.at_ns), bisect_right(channel.at_ns, sample.at_ns)
        base = channel.values[max(0, bisect_right(channel.at_ns, self._start.at_ns) - 1)]
        return base, channel.values[first:stop]


def _difference(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def pack(phases: Sequence[PhaseMemory]) -> bytes:
    """Small: those of a hundred thousand runs stay in memory."""
    return msgspec.msgpack.encode(phases) if phases else b""


def unpack(packed: bytes) -> tuple[PhaseMemory, ...]:
    """The inverse of `pack`."""
    return msgspec.msgpack.decode(packed, type=tuple[PhaseMemory, ...]) if packed else ()
