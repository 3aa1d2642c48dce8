"""A whole study: weights brought to the disk, the sampler started, the plan run, everything let go again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.models.partfile import Progress as FetchProgress
from harness.options import StudyOptions
from harness.study import detect_device, power_mode, prepare, weights
from harness.study.environments.base import Environment
from harness.study.prepare import Draft
from harness.study.progress import Progress
from harness.study.provenance import study_facts
from harness.study.runner import Runner, StopFlag, Study
from harness.study.sampler import SamplerHandle, SamplerLost
from harness.study.store import Store
from harness.study.weights import Listener
from harness.telemetry_protocol import Start
from harness.units import NS_PER_MS

GATE_TIMEOUT_S = 600.0
WISH_TIMEOUT_S = 20.0


class WeightsListener(Listener, FetchProgress, Protocol):
    """Both of what the making of weights tells."""


@dataclass(frozen=True, kw_only=True)
class Watchers:
    """Who is told of what happens."""

    weights: WeightsListener
    study: Progress


def conduct(root: Path, options: StudyOptions, drafted: Draft, store: Store, watchers: Watchers) -> int:
    """Run a drafted plan into a store; the number of failed runs.

    Raises:
        Interrupted: after Ctrl-C; finished runs are kept.
        EnvironmentLacking, IntegrityError, UsageError: before the first run.
    """
    keys = drafted.plan.model_keys()
    located = weights.locate(drafted.registry, keys, drafted.folders, watchers.weights, on_fetch=watchers.weights)
    if drafted.device.power_mode:
        power_mode.set_nvpmodel(drafted.device.power_mode)
    environment = prepare.environment(root, options)
    study = Study(
        plan=drafted.plan,
        located=located,
        prompts=drafted.prompts,
        environment=environment,
        store=store,
        facts=study_facts(
            root, environment.image_digest, detect_device.origin(), clocks_pinned=drafted.device.jetson_clocks
        ),
        gates=prepare.gates(drafted.device, options.out),
        wishes=() if drafted.suite.tiny else prepare.wishes(drafted.device),
        gate_timeout_s=GATE_TIMEOUT_S,
        wish_timeout_s=WISH_TIMEOUT_S,
        idle_s=drafted.device.idle_seconds,
        minutes=prepare.planned_minutes(drafted),
        left_out=drafted.left_out,
    )
    stop = StopFlag()
    with stop.installed(), _released(environment), _sampler(drafted, watchers.study) as sampler:
        runner = Runner(study, sampler, watchers.study, stop)
        runner.run()
        return runner.failed


@contextmanager
def _released(environment: Environment) -> Iterator[None]:
    try:
        yield
    finally:
        environment.close()


@contextmanager
def _sampler(drafted: Draft, progress: Progress) -> Iterator[SamplerHandle | None]:
    """The sampler process for the whole study; a study goes on without it and says so."""
    handle = None
    try:
        handle = SamplerHandle.start(Start(period_ns=drafted.device.telemetry_period_ms * NS_PER_MS))
    except SamplerLost as lost:
        progress.note(f"no telemetry: {lost}")
    try:
        yield handle
    finally:
        if handle is not None:
            with suppress(SamplerLost):
                handle.stop()
