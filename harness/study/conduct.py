"""A whole study: weights brought to the disk, the sampler started, the plan run, everything let go again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import EnvironmentLacking, UsageError
from harness.models.partfile import Progress as FetchProgress
from harness.options import StudyOptions
from harness.study import detect_device, prepare, weights
from harness.study.environments.base import Environment
from harness.study.prepare import Draft
from harness.study.progress import Progress
from harness.study.provenance import study_facts
from harness.study.runner import Runner, StopFlag, Study
from harness.study.sampler import SamplerHandle, SamplerLost
from harness.study.site import Site
from harness.study.store import Store
from harness.study.weights import Listener
from harness.telemetry_protocol import Start
from harness.terms import EnvironmentKind
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


def conduct(
    root: Path, options: StudyOptions, drafted: Draft, store: Store, watchers: Watchers, site: Site | None = None
) -> int:
    """Run a drafted plan into a store; the number of failed runs. Without a site: on this machine.

    Raises:
        Interrupted: after Ctrl-C; finished runs are kept.
        HostLost: another machine does not answer any more; finished runs are kept.
        EnvironmentLacking, IntegrityError, UsageError: before the first run.
    """
    site = site or prepare.here(root, options)
    _require_limits(options, drafted)
    _require_room(options.out)
    keys = drafted.plan.model_keys()
    located = weights.locate(drafted.registry, keys, drafted.folders, watchers.weights, on_fetch=watchers.weights)
    site.bring(located, watchers.weights)
    if drafted.device.power_mode:
        site.set_power_mode(drafted.device.power_mode)
    environment = site.environment()
    study = Study(
        plan=drafted.plan,
        located=located,
        prompts=drafted.prompts,
        environment=environment,
        store=store,
        facts=study_facts(
            root,
            environment.image_digest,
            detect_device.origin(site.view.root),
            clocks_pinned=drafted.device.jetson_clocks,
        ),
        view=site.view,
        gates=prepare.gates(drafted.device, options.out, site.view.ask),
        wishes=() if drafted.suite.tiny else prepare.wishes(drafted.device, site.view.pause),
        gate_timeout_s=GATE_TIMEOUT_S,
        wish_timeout_s=WISH_TIMEOUT_S,
        idle_s=drafted.device.idle_seconds,
        minutes=prepare.planned_minutes(drafted),
        left_out=drafted.left_out,
    )
    stop = StopFlag()
    with stop.installed(), _released(environment), _sampler(site, drafted, watchers.study) as sampler:
        runner = Runner(study, sampler, watchers.study, stop)
        runner.run()
        return runner.failed


def _require_limits(options: StudyOptions, drafted: Draft) -> None:
    """A memory limit is a container's; without one the run would say what was never true."""
    limited = {
        cohort.experiment.name
        for cohort in drafted.plan.cohorts
        if any(cell.settings.memory_limit_bytes for cell in cohort.cells)
    }
    if limited and options.environment is EnvironmentKind.NATIVE:
        what = f"memory limits need containers (experiments {', '.join(sorted(limited))})"
        raise UsageError(what, where="--env", cure="add --env container")


def _require_room(out: Path) -> None:
    """A disk that is full before the first run would only keep the gate waiting."""
    closed = prepare.room(out).check(out)
    if closed is not None:
        cure = "free some space, then --resume; or choose an --out on another disk"
        raise EnvironmentLacking(closed.reason, where=str(out), cure=cure)


@contextmanager
def _released(environment: Environment) -> Iterator[None]:
    try:
        yield
    finally:
        environment.close()


@contextmanager
def _sampler(site: Site, drafted: Draft, progress: Progress) -> Iterator[SamplerHandle | None]:
    """The sampler process for the whole study; a study goes on without it and says so."""
    handle = None
    try:
        handle = site.sampler(Start(period_ns=drafted.device.telemetry_period_ms * NS_PER_MS))
    except SamplerLost as lost:
        progress.note(f"no telemetry: {lost}")
    try:
        yield handle
    finally:
        if handle is not None:
            with suppress(EnvironmentLacking):  # it is lost, or its host is: the study itself has told that
                handle.stop()
