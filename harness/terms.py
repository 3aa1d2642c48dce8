"""The words of a study: closed vocabularies that records, plans, workers and reports share."""

from __future__ import annotations

from enum import StrEnum


class Weights(StrEnum):
    """Released bytes, or an architecture-faithful stand-in with random values."""

    RELEASED = "released"
    PROXY = "proxy"


class DeviceKind(StrEnum):
    """The families of machines that the bundle has profiles for."""

    CPU = "cpu"
    CUDA = "cuda"
    JETSON = "jetson"
    MAC = "mac"


class EnvironmentKind(StrEnum):
    """How the worker was started."""

    NATIVE = "native"
    CONTAINER = "container"


class EngineKind(StrEnum):
    """What computed the tokens; records of the fake engine are watermarked and satisfy no claim."""

    LLAMA_CPP = "llama.cpp"
    FAKE = "fake"


class Origin(StrEnum):
    """Whether a number comes from the machine that the record names."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SYNTHETIC = "synthetic"


class RunKind(StrEnum):
    """What a run is for; a timed run is never profiled."""

    ROUNDS = "rounds"  # speed, workers of a group taking turns
    SOLO = "solo"  # memory, load time, cold behaviour: alone on the machine
    PROFILE = "profile"  # node times
    ROUTING = "routing"  # selected experts
    BANDWIDTH = "bandwidth"  # read bandwidth of the machine


class BurstKind(StrEnum):
    """One worker's turn."""

    PREFILL = "prefill"
    DECODE = "decode"
    UNWATCHED = "unwatched"  # decode while the sampler process does nothing: what sampling costs
    PROFILE = "profile"  # decode with the node callback attached
    IDLE = "idle"  # nothing at work: the baseline of power
    READ = "read"  # passes over memory: the bandwidth of the machine


class ProfileMode(StrEnum):
    """What one timed stretch of a profile is."""

    NODE = "node"  # every node that computes, by itself
    RANGE = "range"  # neighbours of one category together: fusion stays, and fewer idle threads have to be woken


class NodeCategory(StrEnum):
    """The parts of a decode step."""

    ATTENTION = "attention"  # projections and rotation: work that does not grow with the context
    KV = "kv"  # the cache (or recurrent state) written and read: scores, soft-max, weighted sum
    NORM = "norm"
    ROUTER = "router"  # scores of experts, their selection, their weights
    EXPERT_GATE = "expert_gate"
    EXPERT_UP = "expert_up"
    EXPERT_ACTIVATION = "expert_activation"
    EXPERT_DOWN = "expert_down"
    COMBINE = "combine"  # experts' outputs weighted and summed
    SHARED_EXPERT = "shared_expert"
    DENSE_FFN = "dense_ffn"
    CONVOLUTION = "convolution"  # of layers that have no attention
    HEAD = "head"  # logits
    OTHER = "other"  # embedding, residual sums, and nodes that the table does not know


class TokenSource(StrEnum):
    """Where prompt tokens come from."""

    RANDOM = "random"
    REPEATED = "repeated"
    TEXT = "text"


class KvType(StrEnum):
    """Element type of the KV cache."""

    F16 = "f16"
    Q8_0 = "q8_0"


class FlashAttention(StrEnum):
    """llama.cpp's switch."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Ending(StrEnum):
    """Why a run ended."""

    OK = "ok"
    ERROR = "error"  # the worker said what went wrong
    CRASH = "crash"  # a signal that nobody here sent
    OOM = "oom"  # killed at the memory ceiling, or refused an allocation
    TIMEOUT = "timeout"
    GATE = "gate"  # the machine never became fit to measure
    PROTOCOL = "protocol"  # none, two, or a foreign record
    INTERRUPTED = "interrupted"


class TaintKind(StrEnum):
    """Why a run that ended well is left out of speed and energy."""

    THROTTLED = "throttled"
    POWER_MODE_CHANGED = "power_mode_changed"
    CLOCK_CHANGED = "clock_changed"
    SUSPENDED = "suspended"
    SWAPPED = "swapped"
    MAJOR_FAULTS = "major_faults"
    FOREIGN_LOAD = "foreign_load"
    SENSOR_LOST = "sensor_lost"
    IDLE_DRIFT = "idle_drift"
    OUTPUT_DIFFERS = "output_differs"
    LOW_POWER_MODE = "low_power_mode"
    ON_BATTERY = "on_battery"


class Quality(StrEnum):
    """How a sensor comes by its value; the three are never mixed in one ratio."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    MODELLED = "modelled"


class Quantity(StrEnum):
    """What a telemetry channel carries; the unit is part of the name."""

    POWER_MW = "power_mw"
    ENERGY_MJ = "energy_mj"  # a counter: differences count
    TEMPERATURE_CELSIUS = "temperature_celsius"
    CLOCK_MHZ = "clock_mhz"
    MEMORY_BYTES = "memory_bytes"
    UTILISATION_PERCENT = "utilisation_percent"
    THROTTLE = "throttle"  # 0 or 1
