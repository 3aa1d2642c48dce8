"""The study from its first cohort to its last: gates, workers, telemetry, records; resume runs only the rest."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import msgspec

from harness.clock import now_ns
from harness.protocol import Task
from harness.records import SCHEMA_VERSION, GateWait, RunSpec, Telemetry, Termination
from harness.study import machine_state, power_mode
from harness.study import plan as planning
from harness.study.cohort import CohortRun, Outcome, Session, stopped
from harness.study.environments.base import Environment
from harness.study.gates import Gate, all_open, wait_until_fit
from harness.study.machine_state import MachineState
from harness.study.plan import Cohort, ModelKey, Plan
from harness.study.progress import Progress
from harness.study.provenance import StudyFacts, make_record
from harness.study.sampler import SamplerHandle, SamplerLost
from harness.study.site import OwnView, View
from harness.study.store import DatasetInfo, PlannedRun, Store, read_info
from harness.study.weights import Located
from harness.terms import Ending, Quantity, RunKind, TokenSource

HASTY_S = 30.0  # at gates, after a cohort for which one never opened: the next would most likely wait in vain too
POWER = (Quantity.POWER_MW, Quantity.ENERGY_MJ)


class StopFlag:
    """Set by the first Ctrl-C or SIGTERM; the second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to both signals while a study runs."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():  # once asked to stop, nothing is left for another request to stop
                signal.signal(number, signal.SIG_IGN if self.requested else handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a plan needs to become a dataset."""

    plan: Plan
    located: Mapping[ModelKey, Located]
    prompts: Mapping[str, str]
    environment: Environment
    store: Store
    facts: StudyFacts
    gates: tuple[Gate, ...]  # a run does not begin while one is closed
    wishes: tuple[Gate, ...]  # waited for a little; the run then begins, and its own counters judge it
    gate_timeout_s: float
    wish_timeout_s: float
    idle_s: float
    minutes: float
    left_out: Mapping[str, str]  # what the suite names and this study can't run, with its reason
    view: View = field(default_factory=OwnView)  # of the machine that is measured


class Runner:
    """Runs what is not recorded yet, cohort by cohort."""

    def __init__(self, study: Study, sampler: SamplerHandle | None, progress: Progress, stop: StopFlag) -> None:
        self._study = study
        self._sampler = sampler
        self._progress = progress
        self._stop = stop
        self._gate_patience_s = study.gate_timeout_s
        self._why_no_telemetry = "" if sampler is not None else "the sampler process did not start"

    @property
    def failed(self) -> int:
        """Recorded runs of the dataset that did not end well, those of earlier sessions included."""
        return len(self._study.store.failed)

    def run(self) -> None:
        """Run the plan; every record is on the disk when this returns.

        Raises:
            Interrupted: after Ctrl-C; finished runs are kept.
        """
        study = self._study
        bound = [(cohort, self._specs(cohort)) for cohort in study.plan.cohorts]
        study.store.describe(self._info([(cohort, specs) for cohort, specs in bound]))
        open_cohorts = [(cohort, specs) for cohort, specs in bound if self._missing(specs)]
        runs = sum(len(self._missing(specs)) for _, specs in open_cohorts)
        self._progress.begin(len(open_cohorts), runs, study.minutes * len(open_cohorts) / max(1, len(bound)))
        try:
            for number, (cohort, specs) in enumerate(open_cohorts):
                self._progress.cohort(cohort, number)
                self._run_cohort(cohort, specs)
        finally:
            self._progress.end()
            study.store.seal()

    def _specs(self, cohort: Cohort) -> tuple[RunSpec, ...]:
        refs = {key: located.ref for key, located in self._study.located.items()}
        environment = self._study.environment
        return planning.bind(self._study.plan, cohort, refs, environment.build_id, environment.kind)

    def _missing(self, specs: Sequence[RunSpec]) -> list[int]:
        return [place for place, spec in enumerate(specs) if spec.run_id not in self._study.store.finished]

    def _info(self, bound: Sequence[tuple[Cohort, tuple[RunSpec, ...]]]) -> DatasetInfo:
        planned = tuple(
            PlannedRun(
                run_id=spec.run_id,
                group=spec.schedule.group,
                experiment=spec.experiment,
                kind=spec.kind.value,
                model=spec.model.name,
                label=cell.label,
            )
            for cohort, specs in bound
            for cell, spec in zip(cohort.cells, specs, strict=True)
        )
        plan = self._study.plan
        return DatasetInfo(
            schema=SCHEMA_VERSION,
            suite=plan.suite,
            device=plan.device.value,
            seed=plan.seed,
            planned=(*planned, *self._planned_before({run.run_id for run in planned})),
            memory_available_bytes=plan.machine.memory_available_bytes,
            not_run=dict(self._study.left_out),
        )

    def _planned_before(self, ids: set[str]) -> Iterator[PlannedRun]:
        """Recorded runs that another command planned here: `bench`, then `profile --resume`."""
        before = read_info(self._study.store.folder)
        for run in before.planned if before else ():
            if run.run_id not in ids and run.run_id in self._study.store.recorded:
                yield run

    def _run_cohort(self, cohort: Cohort, specs: Sequence[RunSpec]) -> None:
        missing = self._missing(specs)
        if len(missing) < len(specs):
            specs = _apart(specs, missing)
        tasks = {place: self._task(cohort, specs[place], place) for place in missing}
        waits = self._wait(self._study.gates, self._gate_patience_s)
        fit = all_open(waits)
        self._gate_patience_s = self._study.gate_timeout_s if fit else min(HASTY_S, self._study.gate_timeout_s)
        if fit:
            waits += self._wait(self._study.wishes, self._study.wish_timeout_s)
        if not fit:
            outcomes = [_refused(task.spec, waits) for task in tasks.values()]
        else:
            outcomes = self._judged(CohortRun(cohort, tasks, self._session(cohort)))
        for outcome in outcomes:
            self._keep(outcome, waits)

    def _judged(self, run: CohortRun) -> list[Outcome]:
        """Outcomes of a cohort, tainted where the machine was set otherwise when it ended than when it began."""
        before = self._state()
        outcomes = run.run()
        found = machine_state.state_taints(before, self._state())
        for outcome in outcomes:
            outcome.taints += found
        return outcomes

    def _state(self) -> MachineState:
        view = self._study.view
        view.refresh()
        return machine_state.read(view.root, view.ask)

    def _wait(self, gates: tuple[Gate, ...], timeout_s: float) -> tuple[GateWait, ...]:
        return wait_until_fit(
            gates,
            root=self._study.view.root,
            timeout_s=timeout_s,
            on_wait=self._on_wait,
            refresh=self._study.view.refresh,
        )

    def _on_wait(self, gate: str, reason: str, _waited_ns: int) -> None:
        self._progress.waiting(f"{gate}: {reason}")
        if self._stop.requested:
            raise stopped()

    def _session(self, cohort: Cohort) -> Session:
        sensed = self._sampler is not None and any(
            channel.quantity in POWER for channel in self._sampler.ready.channels
        )
        timed = cohort.experiment.kind in (RunKind.ROUNDS, RunKind.SOLO)
        return Session(
            environment=self._study.environment,
            progress=self._progress,
            stop_requested=lambda: self._stop.requested,
            idle_s=self._study.idle_s if sensed and timed else 0.0,
            on_telemetry=self._pause_sampler,
        )

    def _pause_sampler(self, wanted: bool) -> None:
        """For bursts that tell what sampling costs."""
        if self._sampler is not None:
            try:
                self._sampler.pause(not wanted)
            except SamplerLost as lost:
                self._lose_sampler(lost)

    def _task(self, cohort: Cohort, spec: RunSpec, place: int) -> Task:
        cell = cohort.cells[place]
        text = self._study.prompts[cell.prompt_id] if cell.workload.source is TokenSource.TEXT else ""
        return Task(spec=spec, model_path=str(self._study.located[cell.key].path), prompt_text=text)

    def _keep(self, outcome: Outcome, waits: tuple[GateWait, ...]) -> None:
        telemetry, view = self._telemetry(outcome), self._study.view
        mode = power_mode.describe(view.root, view.ask)
        self._study.store.append(make_record(outcome, self._study.facts, telemetry, waits, mode))

    def _telemetry(self, outcome: Outcome) -> Telemetry:
        """What the sampler saw; without one the reason."""
        offset_ns = self._study.view.offset_ns  # samples bear the time of the machine that is measured
        start_ns, end_ns = outcome.started_ns + offset_ns, (outcome.ended_ns or now_ns()) + offset_ns
        if self._sampler is not None:
            try:
                telemetry = self._sampler.collect(start_ns, end_ns)
                idle = tuple((start + offset_ns, end + offset_ns) for start, end in outcome.idle)
                return msgspec.structs.replace(telemetry, idle_windows=idle)
            except SamplerLost as lost:
                self._lose_sampler(lost)
        absent = {"energy": self._why_no_telemetry}
        return Telemetry(period_ns=0, missed_ticks=0, start_ns=start_ns, end_ns=end_ns, channels=(), absent=absent)

    def _lose_sampler(self, lost: SamplerLost) -> None:
        self._progress.note(f"telemetry is lost from here on: {lost}")
        self._why_no_telemetry = lost.what
        self._sampler = None


def _apart(specs: Sequence[RunSpec], missing: Sequence[int]) -> tuple[RunSpec, ...]:
    """The rest of a cohort: its bursts pair with each other, never with those recorded at another time."""
    rest = "-".join(specs[place].run_id[:6] for place in missing)
    replace = msgspec.structs.replace
    return tuple(
        replace(spec, schedule=replace(spec.schedule, cohort=f"{spec.schedule.cohort}-rest-{rest}")) for spec in specs
    )


def _refused(spec: RunSpec, waits: tuple[GateWait, ...]) -> Outcome:
    reasons = "; ".join(f"{wait.gate}: {wait.reason}" for wait in waits if not wait.opened)
    termination = Termination(ending=Ending.GATE, message=f"the machine did not become fit: {reasons}")
    return Outcome(spec, termination, started_ns=now_ns(), ended_ns=now_ns())
