"""Suites and device profiles: configs/suites/*.toml and configs/devices/*.toml as frozen structs."""

from __future__ import annotations

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import UsageError
from harness.records import Struct
from harness.terms import DeviceKind, FlashAttention, KvType, ProfileMode, RunKind, TokenSource, Weights

Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Order(StrEnum):
    """In which order the processes of a block follow one another, where each has the machine to itself."""

    RANDOM = "random"
    ALTERNATING = "alternating"  # as the models are listed in even blocks, reversed in odd ones, nothing between them


class Variation(Struct, frozen=True):
    """What an experiment varies; every combination becomes a cell of each model."""

    depth_tokens: tuple[NotNegative, ...] = ()
    kv_type: tuple[KvType, ...] = ()
    flash_attention: tuple[FlashAttention, ...] = ()
    threads: tuple[Positive, ...] = ()
    batch_width: tuple[Positive, ...] = ()
    source: tuple[TokenSource, ...] = ()
    repack: tuple[bool, ...] = ()
    use_mmap: tuple[bool, ...] = ()
    memory_limit_bytes: tuple[NotNegative, ...] = ()
    profile_mode: tuple[ProfileMode, ...] = ()


class Experiment(Struct, frozen=True):
    """Cells that are compared with one another."""

    name: Label
    title: Annotated[str, Meta(min_length=1)]
    kind: RunKind
    models: Annotated[tuple[str, ...], Meta(min_length=1)]  # NAME or NAME[experts=16,used=4]
    weights: Weights | None = None  # null: as the command asks
    both_weights: bool = False  # released against a clone of itself
    file_types: Annotated[tuple[str, ...], Meta(min_length=1)] = ("Q4_K_M",)
    blocks: Positive = 1  # passes with fresh processes
    rounds: Positive = 1  # turns of each worker in a pass
    budget_seconds: Annotated[float, Meta(ge=0)] = 0.0  # rounds stop here; 0: no bound
    prompt_tokens: Positive = 128
    depth_tokens: NotNegative = 128
    decode_tokens: NotNegative = 0  # 0: as many as fill decode_seconds
    decode_seconds: Annotated[float, Meta(ge=0)] = 0.7
    settle_tokens: NotNegative = 3
    prefill_every: NotNegative = 1  # a prefill burst in every n-th round; 0: never
    rotating: tuple[str, ...] = ()  # of these models one a round decodes, in turn; the others decode in every round
    sampler_cost: bool = False  # every round decodes twice, with the sampler at work and with it paused
    use_mmap: bool | None = None  # null: as the device profile says
    order: Order = Order.RANDOM
    prompts: tuple[str, ...] = ()  # ids of configs/prompts.toml, or "all"; text needs released weights
    vary: Variation = Variation()


class Suite(Struct, frozen=True):
    """A whole study."""

    title: Annotated[str, Meta(min_length=1)]
    minutes: Positive  # expected on 2 cores and 24 GB
    experiments: Annotated[tuple[Experiment, ...], Meta(min_length=1)]
    tiny: bool = False  # small proxies of the same architectures: shows every stage, measures nothing of interest


class Device(Struct, frozen=True):
    """How a family of machines is used."""

    title: Annotated[str, Meta(min_length=1)]
    kind: DeviceKind
    threads: NotNegative  # 0: the machine's physical cores
    default_weights: Weights
    gpu_layers: NotNegative = 0
    use_mmap: bool = True
    repack: bool = True
    power_mode: str = ""  # by name; "": none asked for
    jetson_clocks: bool = False
    maximum_start_celsius: Annotated[float, Meta(gt=0)] = 70.0
    telemetry_period_ms: Positive = 100
    burst_seconds: Annotated[float, Meta(ge=0)] = 0.0  # shortest decode burst that the power sensor can see
    idle_seconds: Annotated[float, Meta(ge=0)] = 3.0  # before and after a cohort, where a power sensor exists
    foreign_load_cores: Annotated[float, Meta(gt=0)] = 0.5  # others may use this much when a run starts


def load_suite(root: Path, name: str) -> Suite:
    """A suite by name.

    Raises:
        UsageError: there is none of that name.
        ConfigError: its file has faults; all of them are listed.
    """
    suite = read_toml(_find(root / "configs" / "suites", name, "suite"), Suite)
    names = [experiment.name for experiment in suite.experiments]
    doubled = sorted({name for name in names if names.count(name) > 1})
    for experiment in suite.experiments:
        fault = _fault(experiment)
        if fault:
            raise UsageError(f"{experiment.name}: {fault}", where=f"configs/suites/{name}.toml")
    if doubled:
        raise UsageError(f"two experiments are named {doubled[0]!r}", where=f"configs/suites/{name}.toml")
    return suite


def _fault(experiment: Experiment) -> str:
    """What keys of one experiment say against one another; empty when they agree."""
    if experiment.order is Order.ALTERNATING and experiment.kind is not RunKind.SOLO:
        return "only solo runs have an order"
    if experiment.rotating and experiment.kind is not RunKind.ROUNDS:
        return "only in rounds can models be rotating"
    whole = [name for name in experiment.models if "[" not in name]
    strangers = [name for name in experiment.rotating if name not in whole]
    return f"rotating names {strangers[0]!r}, which is not among its unvaried models" if strangers else ""


def load_device(root: Path, name: str) -> Device:
    """A device profile by name; errors as for suites."""
    return read_toml(_find(root / "configs" / "devices", name, "device"), Device)


def _find(folder: Path, name: str, what: str) -> Path:
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"there is no {what} {name!r}", where=f"--{what}", cure=f"{hint}known: {', '.join(known)}")
    return folder / f"{name}.toml"
