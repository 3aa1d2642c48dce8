"""From a user's options to a study that can run: device, plan, weights, environment, gates."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.errors import UsageError
from harness.models import registry, texts
from harness.models.registry import Registry
from harness.options import StudyOptions
from harness.study import config, plan, weights
from harness.study.config import Device, Experiment, Suite
from harness.study.environments.base import Environment
from harness.study.environments.native import NativeEnvironment
from harness.study.gates import (
    AcPower,
    ForeignLoad,
    FreeDisk,
    Gate,
    JetsonClocks,
    LowPowerModeOff,
    NoThrottling,
    NvpModel,
    Sleep,
    TemperatureBand,
)
from harness.study.plan import Cell, Machine, Plan
from harness.study.power_mode import Ask, ask_program
from harness.study.store import read_info
from harness.study.weights import Folders
from harness.terms import EngineKind, EnvironmentKind, RunKind, Weights

if TYPE_CHECKING:
    from harness.study.site import Site

RECORDS_BYTES = 200_000_000
EXPERIMENT_S = {RunKind.PROFILE: 25.0, RunKind.ROUTING: 15.0, RunKind.BANDWIDTH: 15.0, RunKind.SOLO: 15.0}
LOAD_S = 4.5
FILL_S = 0.012  # for each token that the cache holds before decoding


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan and what it was made of; nothing has been touched yet."""

    suite_name: str
    suite: Suite
    device: Device
    registry: Registry
    folders: Folders
    plan: Plan
    weight_bytes: int
    prompts: dict[str, str]
    left_out: dict[str, str]  # experiment -> reason


def folders(root: Path) -> Folders:
    """$MOE_BUNDLE_MODELS and a `proxies` folder beside it."""
    models = registry.models_dir(root)
    return Folders(models=models, proxies=models.parent / "proxies")


def draft(root: Path, options: StudyOptions, kinds: tuple[RunKind, ...] = (), site: Site | None = None) -> Draft:
    """The plan of a command.

    Args:
        root: of the checkout.
        options: as the user gave them.
        kinds: only experiments of these kinds; none: all.
        site: where it will run; none: on this machine.

    Raises:
        UsageError, ConfigError: unknown names or faulty files.
        EnvironmentLacking: the device asked for is not this machine.
    """
    site = site or here(root, options)
    device = config.load_device(root, site.device().value)
    suite = _only(config.load_suite(root, options.suite), kinds)
    known = registry.load(root)
    prompts = texts.load(root)
    suite = _with_prompts(suite, [prompt.prompt_id for prompt in prompts])
    chosen = _weights(options, device, known, suite, folders(root))
    suite, left_out = _without_text_on_proxies(suite, chosen)
    machine = _as_before(options, site.machine())
    size_of = functools.cache(functools.partial(weights.planned_bytes, known))
    planned = plan.build(options.suite, suite, device, chosen, machine, size_of)
    return Draft(
        suite_name=options.suite,
        suite=suite,
        device=device,
        registry=known,
        folders=folders(root),
        plan=planned,
        weight_bytes=sum(size_of(key) for key in planned.model_keys()),
        prompts={prompt.prompt_id: prompt.text for prompt in prompts},
        left_out=left_out,
    )


def here(root: Path, options: StudyOptions) -> Site:
    """This machine."""
    from harness.study.site import Here  # noqa: PLC0415 - it knows this module

    return Here(root, options)


def _as_before(options: StudyOptions, machine: Machine) -> Machine:
    """On resume with the memory that the interrupted study found: other memory gives other cohorts, other runs."""
    kept = read_info(options.out) if options.resume else None
    if kept is not None and kept.suite == options.suite and kept.memory_available_bytes:
        return replace(machine, memory_available_bytes=kept.memory_available_bytes)
    return machine


def _without_text_on_proxies(suite: Suite, chosen: Weights) -> tuple[Suite, dict[str, str]]:
    """Proxies have no vocabulary: experiments on text are left out, each with its reason."""
    text = [one for one in suite.experiments if one.prompts and (one.weights or chosen) is Weights.PROXY]
    reason = "text needs a vocabulary, which proxies do not have: --weights released"
    kept = tuple(one for one in suite.experiments if one not in text)
    return msgspec.structs.replace(suite, experiments=kept), {f"experiment {one.name}": reason for one in text}


def _only(suite: Suite, kinds: tuple[RunKind, ...]) -> Suite:
    if not kinds:
        return suite
    experiments = tuple(experiment for experiment in suite.experiments if experiment.kind in kinds)
    if not experiments:
        raise UsageError(f"the suite has no experiment of kind {', '.join(kinds)}", where="--suite")
    return msgspec.structs.replace(suite, experiments=experiments)


def _with_prompts(suite: Suite, known: list[str]) -> Suite:
    """Resolves `prompts = ["all"]` and refuses unknown ids."""
    experiments = []
    for experiment in suite.experiments:
        wanted = tuple(known) if experiment.prompts == ("all",) else experiment.prompts
        for prompt_id in wanted:
            if prompt_id not in known:
                cure = f"known: {', '.join(known)}"
                raise UsageError(f"there is no prompt {prompt_id!r}", where=f"experiment {experiment.name}", cure=cure)
        experiments.append(msgspec.structs.replace(experiment, prompts=wanted))
    return msgspec.structs.replace(suite, experiments=tuple(experiments))


def _weights(options: StudyOptions, device: Device, known: Registry, suite: Suite, where: Folders) -> Weights:
    """As asked; else the device's default, but released wherever all verified files are at hand already."""
    names = sorted({plan.parse_model(text)[0] for experiment in suite.experiments for text in experiment.models})
    for name in names:
        known.get(name)
    if options.weights is not None:
        return options.weights
    if suite.tiny:
        return Weights.PROXY
    return Weights.RELEASED if weights.weights_at_hand(known, names, where) else device.default_weights


def environment(root: Path, options: StudyOptions) -> Environment:
    """Native, or a container per run.

    Raises:
        EnvironmentLacking: no engine, no image, no permission.
    """
    if options.environment is EnvironmentKind.NATIVE:
        return NativeEnvironment(root, build_id(options))
    from harness.study.environments import workers  # noqa: PLC0415 - docker loads only where it is used

    return workers.environment(root, build_id(options), here(root, options).device())


def build_id(options: StudyOptions) -> str:
    """What identifies the engine's build in every run_id."""
    return EngineKind.FAKE.value if options.fake else f"llama-cpp-python {version('llama-cpp-python')}"


def room(out: Path) -> FreeDisk:
    """Space that a study's records may take."""
    return FreeDisk(folder=out, needed_bytes=RECORDS_BYTES)


def gates(device: Device, out: Path, ask: Ask = ask_program) -> tuple[Gate, ...]:
    """What must be so before a run begins on this device; `ask` asks its programs."""
    always: list[Gate] = [
        TemperatureBand(highest_celsius=device.maximum_start_celsius),
        NoThrottling(ask=ask),
        LowPowerModeOff(ask=ask),
        AcPower(ask=ask),
        room(out),
    ]
    if device.power_mode:
        always.append(NvpModel(mode=device.power_mode, ask=ask))
    if device.jetson_clocks:
        always.append(JetsonClocks())
    return tuple(always)


def wishes(device: Device, sleep: Sleep = time.sleep) -> tuple[Gate, ...]:
    """What is waited for a little; a run that begins all the same is judged by its own counters."""
    return (ForeignLoad(highest_cpus=device.foreign_load_cores, sleep=sleep),)


def expected_s(cohort: plan.Cohort) -> float:
    """Seconds that a cohort takes, about, with models of one to seven billion parameters on two cores."""
    experiment = cohort.experiment
    loads_s = sum(LOAD_S + FILL_S * cell.workload.depth_tokens for cell in cohort.cells)
    if experiment.budget_seconds:
        return loads_s + experiment.budget_seconds
    if experiment.kind is not RunKind.ROUNDS:
        return loads_s + EXPERIMENT_S[experiment.kind] * len(cohort.cells)
    return loads_s + experiment.rounds * sum(_turn_s(experiment, cell) for cell in cohort.cells)


def _turn_s(experiment: Experiment, cell: Cell) -> float:
    decode_s = cell.workload.decode_seconds or 0.03 * experiment.decode_tokens
    bursts = 2 if experiment.sampler_cost else 1
    prefill_s = 0.015 * cell.workload.prompt_tokens / experiment.prefill_every if experiment.prefill_every else 0.0
    return 1.2 * decode_s * bursts + prefill_s


def planned_minutes(drafted: Draft) -> float:
    """Of the whole plan; a tiny suite takes what it says."""
    if drafted.suite.tiny:
        return float(drafted.suite.minutes)
    return sum(expected_s(cohort) for cohort in drafted.plan.cohorts) / 60
