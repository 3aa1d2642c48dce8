"""Partial structs: only the fields of a record that a report needs are decoded, so that 100,000 runs take seconds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from harness.records import (
    BandwidthSample,
    MemoryLedger,
    NodeProfile,
    Provenance,
    RoutingTrace,
    RunSpec,
    Taint,
    Telemetry,
    Termination,
    Warmup,
)
from harness.terms import BurstKind, Origin

Duration = Annotated[int, Meta(ge=0)]  # a clock that ran backwards, or a stranger's invention: refused where it is read


class BurstView(msgspec.Struct, gc=False):
    """What a report needs of a burst."""

    kind: BurstKind
    round: int
    position: int
    start_ns: int
    end_ns: int
    tokens: int
    engine_ns: Duration
    token_ns: list[Duration] = []
    sampling_ns: Duration = 0
    samplings: int | None = None
    harness_cpu_ns: int | None = None
    major_faults: int = 0
    involuntary_switches: int = 0
    foreign_cpu_ns: int | None = None
    steal_ns: int | None = None
    waited_ns: int | None = None
    waited_cpu_ns: int | None = None


class MeasuredView(msgspec.Struct):
    """What a report needs of the measured part."""

    load_ns: int
    warmup: Warmup | None
    bursts: list[BurstView]
    memory: MemoryLedger | None
    profile: NodeProfile | None = None
    routing: RoutingTrace | None = None
    bandwidth: tuple[BandwidthSample, ...] = ()


class RecordView(msgspec.Struct):
    """What a report needs of a record; the spec is decoded whole and strictly."""

    spec: RunSpec
    origin: Origin
    provenance: Provenance
    termination: Termination
    measured: MeasuredView | None = None
    telemetry: Telemetry | None = None
    taints: tuple[Taint, ...] = ()


class PlannedRun(msgspec.Struct, frozen=True):
    """A run that the study meant to make."""

    run_id: str
    group: str = ""
    experiment: str = ""
    kind: str = ""
    model: str = ""
    label: str = ""


class DatasetFile(msgspec.Struct, frozen=True):
    """dataset.json: what was planned, and why some of it was not run."""

    schema: int
    suite: str = ""
    device: str = ""
    planned: tuple[PlannedRun, ...] = ()
    not_run: dict[str, str] = {}
