"""The record: one JSON line a run, raw values only. The only thing that crosses process borders.

Every interval is in nanoseconds of the machine's monotonic clock; units stand in the names. A quantity that could not
be observed is null and its reason stands in the `absent` map beside it: never 0.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.terms import (
    BurstKind,
    DeviceKind,
    Ending,
    EngineKind,
    EnvironmentKind,
    FlashAttention,
    KvType,
    NodeCategory,
    Origin,
    ProfileMode,
    Quality,
    Quantity,
    RunKind,
    TaintKind,
    TokenSource,
    Weights,
)

SCHEMA_VERSION = 1


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that is written to disk or sent to a worker."""


class ModelRef(Struct, frozen=True):
    """Which weights a run used."""

    name: str
    architecture: str
    file: str  # base name, no folder
    sha256: str
    size_bytes: int
    weights: Weights
    file_type: str  # Q4_K_M, Q8_0, ...
    parameters_total: int
    parameters_active: int  # read per generated token
    expert_count: int = 0  # 0: dense
    expert_used_count: int = 0
    weight_bytes_total: int = 0  # tensor data of the file
    weight_bytes_active: int = 0  # tensor data read per generated token
    licence: str = ""
    variant: str = ""  # "", or what was varied: "experts=16", "router-skew=1.2"


class Workload(Struct, frozen=True):
    """What is computed."""

    prompt_tokens: int  # length of a prefill burst
    decode_tokens: int  # length of a decode burst; 0: as many as fill `decode_seconds`
    decode_seconds: float = 0.0
    depth_tokens: int = 0  # tokens in the KV cache before a decode burst; at least 1
    settle_tokens: int = 3  # first tokens after a switch: kept, not counted
    source: TokenSource = TokenSource.RANDOM
    prompt_id: str = ""
    kv_type: KvType = KvType.F16
    batch_width: int = 1  # sequences decoded together
    seed: int = 1
    profile_mode: ProfileMode = ProfileMode.RANGE  # profile runs only


class Settings(Struct, frozen=True):
    """How the device is used."""

    threads: int
    gpu_layers: int = 0
    use_mmap: bool = True
    repack: bool = True  # llama.cpp's extra CPU buffer types
    flash_attention: FlashAttention = FlashAttention.AUTO
    context_tokens: int = 1024
    batch_tokens: int = 512
    ubatch_tokens: int = 512
    telemetry: bool = True
    memory_limit_bytes: int = 0  # 0: none
    variant: str = ""  # label of what a "with and without" comparison varies


class Schedule(Struct, frozen=True):
    """Where a run stands in the study."""

    group: str  # cells that are compared with one another
    cohort: str  # workers alive together
    block: int
    order: int  # place of the cohort in the whole plan
    rounds: int  # rounds planned; 1 for blocks
    seed: int


class RunSpec(Struct, frozen=True):
    """One run as planned; `run_id` hashes all that determines its result."""

    run_id: str
    schema: int
    suite: str
    experiment: str  # headline, memory, profile, context, sparsity, ...
    kind: RunKind
    device: DeviceKind
    environment: EnvironmentKind
    engine: EngineKind
    model: ModelRef
    workload: Workload
    settings: Settings
    schedule: Schedule


class Burst(Struct, frozen=True):
    """One turn of one worker: a prefill window or a decode window, closed by `llama_synchronize`."""

    kind: BurstKind
    round: int
    position: int  # place within the round, from 0
    start_ns: int
    end_ns: int
    tokens: int
    engine_ns: int  # inside llama.cpp's prefill or decode calls
    token_ns: tuple[int, ...] = ()  # decode: each token's decode call, in order; sum = engine_ns
    sampling_ns: int = 0  # arg-max over the logits, within the window
    samplings: int | None = None  # how often; null: after every token
    harness_cpu_ns: int | None = None  # CPU time that the measuring thread took outside engine and arg-max
    cpu_ns: int = 0  # process CPU time, all threads
    major_faults: int = 0
    minor_faults: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0
    foreign_cpu_ns: int | None = None  # CPU time of everyone else in this window
    steal_ns: int | None = None
    waited_ns: int | None = None  # before this turn, since the worker's last one: others were at work
    waited_cpu_ns: int | None = None  # CPU time that this process took while it waited, all threads
    touched_ns: int | None = None  # MoE: reading a byte of every page of the weights before the window; null: not done


class Warmup(Struct, frozen=True):
    """What was done before the first counted window."""

    token_ns: tuple[int, ...]
    prefill_tokens: int
    experts_total: int  # layers x experts; 0: dense
    experts_routed: int  # of them, reached by routing of the warm-up tokens
    experts_touched: int  # of them, read explicitly because routing missed them
    steady: bool


class MemorySample(Struct, frozen=True):
    """Memory at the end of a phase, each source by itself; null where the platform has none."""

    phase: str  # start, loaded, warm, prefill (after the first prompt), decode (after the first burst), finished
    at_ns: int
    vm_hwm_bytes: int | None = None
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    huge_page_bytes: int | None = None  # anonymous memory that the system holds in huge pages
    cgroup_peak_bytes: int | None = None
    phys_footprint_bytes: int | None = None
    phys_footprint_peak_bytes: int | None = None  # highest of the process's life
    device_used_bytes: int | None = None  # GPU memory, or NvMapMemUsed on unified memory
    available_bytes: int | None = None
    swap_used_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    hwm_of_phase: bool = False  # VmHWM was set back when the phase began: it is the peak of this phase alone


class MemoryLedger(Struct, frozen=True):
    """Predicted by llama.cpp, observed by everyone else.

    Weights are planned from the phase `loaded` on, KV cache and compute buffers from `warm` on: the context is open.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    samples: tuple[MemorySample, ...]
    ceiling_bytes: int | None = None
    absent: dict[str, str] = {}


class Text(Struct, frozen=True):
    """Generated tokens of one repetition (weights with a vocabulary only)."""

    prompt_id: str
    token_ids: tuple[int, ...]
    text: str


class NodeTraffic(Struct, frozen=True):
    """Bytes that the nodes of one category touch in one decode step, from the shapes of the graph's tensors."""

    weight_bytes: int  # of expert tensors only the experts that were selected
    kv_bytes: int  # extent of the cache in the graph: llama.cpp pads it to 256 tokens
    activation_bytes: int  # read and written; mostly in cache


class NodeProfile(Struct, frozen=True):
    """Node times of decode steps; the first tokens of a burst are left out as in every decode window.

    Times are gross: each timed stretch bears the cost of one callback and synchronisation, sampled in `empty_ns`.
    """

    mode: ProfileMode
    rounds: tuple[int, ...]  # of each profiled burst
    burst_tokens: tuple[int, ...]  # counted tokens of each profiled burst
    total_ns: tuple[int, ...]  # all stretches; one a counted token
    category_ns: dict[NodeCategory, tuple[int, ...]]  # one sum a counted token; over categories they give total_ns
    category_stretches: dict[NodeCategory, int]  # timed stretches in a decode step
    layer_ns: dict[str, dict[NodeCategory, int]]  # layer ("0", ...; "-": none) -> category -> sum over tokens
    nodes: int  # in the graph of a decode step, empty ones included
    empty_ns: tuple[int, ...]  # calibration: nodes that compute nothing, timed by themselves
    traffic: dict[NodeCategory, NodeTraffic]
    unknown_nodes: tuple[str, ...]  # counted under `other`


class RoutingTrace(Struct, frozen=True):
    """Experts that the routers selected in decode bursts.

    `selected[row][place]` lists the expert ids of the layer `layer_numbers[place]`; a row is one token of one sequence,
    and a step has `batch_width` rows. Rows of one burst follow one another; bursts do not.
    """

    expert_count: int
    expert_used_count: int
    layer_numbers: tuple[int, ...]
    batch_width: int
    burst_steps: tuple[int, ...]
    selected: tuple[tuple[tuple[int, ...], ...], ...]


class BandwidthSample(Struct, frozen=True):
    """One pass of all threads over a working set far larger than the last cache."""

    round: int
    threads: int
    working_set_bytes: int
    last_cache_bytes: int | None
    read_bytes: int
    duration_ns: int


class Measured(Struct, frozen=True):
    """What a worker saw; times raw."""

    load_ns: int
    warmup: Warmup | None
    bursts: tuple[Burst, ...]
    memory: MemoryLedger | None
    texts: tuple[Text, ...] = ()
    profile: NodeProfile | None = None
    routing: RoutingTrace | None = None
    bandwidth: tuple[BandwidthSample, ...] = ()
    engine_info: dict[str, str] = {}  # llama.cpp's own words: system info, buffer types, device names


class Channel(Struct, frozen=True):
    """All samples of one sensor during a run."""

    name: str  # VDD_IN, package-0, cpu_thermal, ...
    quantity: Quantity
    source: str  # jtop, ina3221, tegrastats, nvml, rapl, zeus-apple-silicon, procfs, ...
    scope: str  # what the sensor covers: "module rail VDD_IN", "CPU package 0", ...
    quality: Quality
    resolution: float  # smallest step of the value, in its unit
    at_ns: tuple[int, ...]
    values: tuple[float, ...]
    wrap_at: float | None = None  # counters: the value at which it starts again
    part_of: str = ""  # channel that already includes this one: the two are never summed
    update_ns: int | None = None  # longest time between two updates of the sensor, where its maker states it


class Telemetry(Struct, frozen=True):
    """What the sampler process saw while the run was alive."""

    period_ns: int
    missed_ticks: int
    start_ns: int
    end_ns: int
    channels: tuple[Channel, ...]
    absent: dict[str, str] = {}  # channel or vendor -> reason
    idle_windows: tuple[tuple[int, int], ...] = ()  # (start_ns, end_ns): nothing at work, before and after the rounds


class GateWait(Struct, frozen=True):
    """A wait before a run, with its reason."""

    gate: str
    waited_ns: int
    reason: str
    opened: bool


class Host(Struct, frozen=True):
    """The machine; `fingerprint` hashes the fields that must agree before runs may be pooled."""

    machine: str
    system: str
    kernel: str
    cpu_model: str
    cores: int
    memory_bytes: int
    accelerator: str
    fingerprint: str


class Provenance(Struct, frozen=True):
    """With what exactly the run was made."""

    bundle_version: str
    git_commit: str
    git_dirty: bool
    lock_sha256: str
    llama_cpp_commit: str
    llama_cpp_python: str
    build_flags: str
    compiler: str
    image_digest: str  # "" when native
    python: str
    host: Host
    power_mode: str
    taken_at_utc: str  # wall clock, for people; no interval uses it


class Taint(Struct, frozen=True):
    """Why the run does not count, in words."""

    kind: TaintKind
    detail: str


class Termination(Struct, frozen=True):
    """How the process ended; the three are kept apart."""

    ending: Ending
    exit_code: int | None = None
    signal: int | None = None
    oom_killed: bool = False
    message: str = ""


class Record(Struct, frozen=True):
    """One line of runs.jsonl."""

    spec: RunSpec
    origin: Origin
    provenance: Provenance
    termination: Termination
    measured: Measured | None = None
    telemetry: Telemetry | None = None
    gates: tuple[GateWait, ...] = ()
    taints: tuple[Taint, ...] = ()


class _Version(msgspec.Struct):
    """Just enough of a line to tell its schema."""

    spec: dict[str, Any]


def encode(record: Record) -> bytes:
    """One line, keys in the order of the structs, newline at the end."""
    return msgspec.json.encode(record) + b"\n"


def decode(line: bytes) -> Record:
    """One line back into a record.

    Raises:
        ValueError: not JSON, another schema version, or a field that does not fit; the message names it.
    """
    try:
        version = msgspec.json.decode(line, type=_Version).spec.get("schema")
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a record: {error}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}, this bundle reads {SCHEMA_VERSION}")
    try:
        return msgspec.json.decode(line, type=Record)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a record: {error}") from None


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one record."""
    schema = msgspec.json.schema(Record)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"record v{SCHEMA_VERSION}", **schema}
