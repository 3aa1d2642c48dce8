"""Workers alive together: started in turn, then one burst at a time in seeded random order, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.clock import asleep_ns, now_ns
from harness.errors import Interrupted
from harness.protocol import Task, Turn, WorkerFacts
from harness.records import Measured, RunSpec, Taint, Termination
from harness.study import plan
from harness.study.environments.base import Environment
from harness.study.link import Limits, Link, LinkBroken
from harness.study.plan import Cohort
from harness.study.progress import Progress
from harness.terms import BurstKind, Ending, TaintKind
from harness.units import NS_PER_S

SUSPENDED_NS = NS_PER_S // 2


@dataclass
class Outcome:
    """What became of one run."""

    spec: RunSpec
    termination: Termination
    started_ns: int
    ended_ns: int = 0
    facts: WorkerFacts | None = None
    measured: Measured | None = None
    taints: tuple[Taint, ...] = ()
    idle: tuple[tuple[int, int], ...] = ()


@dataclass
class Session:
    """What a cohort runs with."""

    environment: Environment
    progress: Progress
    stop_requested: Callable[[], bool]
    idle_s: float = 0.0  # before and after the rounds, nothing at work: the baseline of power
    on_telemetry: Callable[[bool], None] = lambda _wanted: None  # pauses the sampler, for what sampling costs
    limits: Limits = field(default_factory=Limits)


def stopped() -> Interrupted:
    """What the first Ctrl-C or SIGTERM ends a study with."""
    return Interrupted("stopped on request", cure="finished runs are kept; go on with --resume")


class CohortRun:
    """One cohort from its first process to its last."""

    def __init__(self, cohort: Cohort, tasks: Mapping[int, Task], session: Session) -> None:
        self._cohort = cohort
        self._tasks = tasks  # place in the cohort -> task; places that are recorded already are missing
        self._session = session
        self._links: dict[int, Link] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._idle: list[tuple[int, int]] = []
        self._watched = True

    def run(self) -> list[Outcome]:
        """Every run of the cohort, ended one way or another.

        Raises:
            Interrupted: the user asked to stop; all workers of the cohort are gone and nothing of it is kept.
        """
        asleep_before_ns = asleep_ns()
        try:
            self._start_all()
            self._be_idle()
            self._rounds()
            self._watch(wanted=True)
            self._be_idle()
            self._finish_all()
        finally:
            self._watch(wanted=True)
            for link in self._links.values():
                link.abandon()
        asleep = asleep_ns() - asleep_before_ns
        return [self._closed(outcome, asleep) for _, outcome in sorted(self._outcomes.items())]

    def _closed(self, outcome: Outcome, asleep: int) -> Outcome:
        outcome.idle = tuple(self._idle)
        if asleep > SUSPENDED_NS:
            detail = f"the machine slept for {asleep / NS_PER_S:.1f} s during the run"
            outcome.taints += (Taint(kind=TaintKind.SUSPENDED, detail=detail),)
        return outcome

    def _check_stop(self) -> None:
        if self._session.stop_requested():
            raise stopped()

    def _start_all(self) -> None:
        for place in plan.round_order(self._cohort, -1):
            if place not in self._tasks:
                continue
            self._check_stop()
            task = self._tasks[place]
            self._session.progress.loading(task.spec)
            started_ns = now_ns()
            self._outcomes[place] = Outcome(task.spec, Termination(ending=Ending.ERROR), started_ns)
            with self._guard(place):
                self._links[place] = Link(self._session.environment, task, self._session.limits)
                self._outcomes[place].facts = self._links[place].ready().facts

    def _be_idle(self) -> None:
        if self._session.idle_s <= 0 or not self._links:
            return
        start_ns = now_ns()
        time.sleep(self._session.idle_s)
        self._idle.append((start_ns, now_ns()))

    def _rounds(self) -> None:
        experiment = self._cohort.experiment
        deadline = now_ns() + round(experiment.budget_seconds * NS_PER_S) if experiment.budget_seconds else None
        for number in range(experiment.rounds):
            if not self._links or (deadline is not None and now_ns() > deadline):
                break
            self._round(number)
            self._session.progress.round_done(number + 1, experiment.rounds)

    def _round(self, number: int) -> None:
        order = [place for place in plan.round_order(self._cohort, number) if place in self._links]
        shared = len(order) > 1
        for position, place in enumerate(order):
            for kind in plan.turns(self._cohort, number):
                self._check_stop()
                if place in self._links:
                    self._watch(wanted=kind is not BurstKind.UNWATCHED)
                    with self._guard(place):
                        turn = Turn(kind=kind, round=number, position=position, after_others=shared)
                        self._links[place].turn(turn)

    def _watch(self, *, wanted: bool) -> None:
        """Pause the sampler, or let it work again; only where an experiment asks what it costs."""
        if self._cohort.experiment.sampler_cost and wanted != self._watched:
            self._session.on_telemetry(wanted)
            self._watched = wanted

    def _finish_all(self) -> None:
        for place in sorted(self._links):
            with self._guard(place):
                finished, termination = self._links[place].finish()
                outcome = self._outcomes[place]
                outcome.measured, outcome.taints = finished.measured, finished.taints
                outcome.termination, outcome.ended_ns = termination, now_ns()
                del self._links[place]

    def _guard(self, place: int) -> _Guard:
        return _Guard(self, place)

    def lose(self, place: int, broken: LinkBroken) -> None:
        """One worker is gone; the others go on."""
        self._links.pop(place, None)
        outcome = self._outcomes[place]
        outcome.termination, outcome.ended_ns = broken.termination, now_ns()
        self._session.progress.run_failed(outcome.spec, broken.termination)


class _Guard:
    """Turns a broken link into the end of that run alone."""

    def __init__(self, run: CohortRun, place: int) -> None:
        self._run, self._place = run, place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, LinkBroken):
            self._run.lose(self._place, error)
            return True
        return False
