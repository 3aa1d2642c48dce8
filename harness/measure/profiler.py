"""Profile runs: one model in two contexts that take turns, one under the node callback; the same tokens in both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from harness.llamacpp.stretches import CUT_OF_MODE, Cut, empty_times_ns
from harness.measure.engine import Coverage
from harness.measure.probed import Borrowed, ProbedLoader, ProfiledEngine
from harness.measure.profile_sums import ProfileSums
from harness.measure.timed import TimedWork
from harness.protocol import Task, Turn
from harness.records import Burst, Measured, Taint
from harness.terms import BurstKind

CALIBRATION_STEPS = 4
CALIBRATION_TOKEN = 0
NOTHING_TO_COVER = Coverage(0, 0, 0)  # the unprofiled context has warmed the weights already


class _Track(TimedWork):
    """A timed run that tells how long its bursts are."""

    @property
    def burst_steps(self) -> int:
        """Decode steps of a burst, settle tokens included; known once prepared."""
        return self._decode_tokens


class ProfileWork:
    """`DECODE` turns go to the plain context, `PROFILE` turns to the profiled one: bursts of one round are a pair."""

    def __init__(self, task: Task, open_loader: Callable[[], ProbedLoader], root: Path = Path("/")) -> None:
        self._task = task
        self._root = root
        self._open_loader = open_loader
        self._sums = ProfileSums(task.spec.workload.profile_mode)
        self._empty_ns: list[int] = []
        self._loader: ProbedLoader
        self._plain = _Track(task, self._open, root)
        self._profiled: TimedWork
        self._borrowed: Borrowed[ProfiledEngine]

    def _open(self) -> ProbedLoader:
        self._loader = self._open_loader()
        return self._loader

    def prepare(self) -> int:
        """Load, warm both contexts, calibrate what asking about a node costs; the step of the plain one."""
        step_ns = self._plain.prepare()
        self._borrowed = Borrowed(self._loader, self._loader.open_profiled, NOTHING_TO_COVER)
        self._profiled = TimedWork(self._same_bursts(), lambda: self._borrowed, self._root)
        self._profiled.prepare()
        self._calibrate(self._borrowed.engine)
        return step_ns

    def _same_bursts(self) -> Task:
        """The task with the burst length that the plain context arrived at, so that both decode the same tokens."""
        workload = replace(self._task.spec.workload, decode_tokens=self._plain.burst_steps)
        return replace(self._task, spec=replace(self._task.spec, workload=workload))

    def _calibrate(self, engine: ProfiledEngine) -> None:
        engine.resume()
        engine.truncate(0)
        engine.start(Cut.EVERY)
        for _ in range(CALIBRATION_STEPS):
            engine.place((CALIBRATION_TOKEN,) * engine.width)
            engine.step()
        self._empty_ns = empty_times_ns(engine.taken())
        engine.truncate(0)
        engine.pause()

    def turn(self, turn: Turn) -> Burst:
        """One burst of the context that the turn's kind names."""
        if turn.kind is not BurstKind.PROFILE:
            return self._plain.turn(turn)
        engine = self._borrowed.engine
        workload = self._task.spec.workload
        engine.start(CUT_OF_MODE[workload.profile_mode])
        burst = self._profiled.turn(turn)
        # the first step was learned, not timed: it is one of those that settle
        self._sums.add(turn.round, engine.taken(), max(0, workload.settle_tokens - 1))
        return burst

    def finish(self) -> tuple[Measured, tuple[Taint, ...]]:
        """Bursts of both contexts in the order of time, and the profile; memory is that of both."""
        profiled, _ = self._profiled.finish()
        plain, taints = self._plain.finish()
        bursts = sorted((*plain.bursts, *profiled.bursts), key=lambda burst: burst.start_ns)
        return replace(plain, bursts=tuple(bursts), profile=self._sums.profile(self._empty_ns)), taints
