"""The conversation with one worker: every way in which it can go wrong becomes one exception with a reason."""

from __future__ import annotations

from dataclasses import dataclass

from harness import protocol
from harness.limits import holds_huge_number
from harness.protocol import Command, Done, Event, Failed, Finished, Ready, Task
from harness.records import Burst, Measured, RunSpec, Termination
from harness.study.environments.base import Environment, Exit, WorkerProcess
from harness.terms import Ending


@dataclass(frozen=True)
class Limits:
    """How long a worker may be silent, in seconds."""

    prepare_s: float = 900.0
    turn_s: float = 300.0
    finish_s: float = 60.0
    goodbye_s: float = 20.0


class LinkBroken(Exception):
    """The run is over before its end; `termination` is what goes into its record."""

    def __init__(self, termination: Termination) -> None:
        super().__init__(termination.message)
        self.termination = termination


class Link:
    """One worker, from its start to its last word."""

    def __init__(self, environment: Environment, task: Task, limits: Limits) -> None:
        self.spec: RunSpec = task.spec
        self._limits = limits
        try:
            self._process: WorkerProcess = environment.start(task)
        except OSError as error:  # no memory, no process ids, no descriptors left
            message = f"the worker could not be started: {error}"
            raise LinkBroken(Termination(ending=Ending.ERROR, message=message)) from error

    def ready(self) -> Ready:
        """Wait until it is loaded and warm.

        Raises:
            LinkBroken: it is not going to be.
        """
        event = self._expect(self._limits.prepare_s)
        if not isinstance(event, Ready):
            raise self._broken(Ending.PROTOCOL, f"expected to hear that it is ready, heard {type(event).__name__}")
        return event

    def turn(self, command: Command) -> Done:
        """Let it do one burst; errors as `ready`."""
        self._send(command)
        event = self._expect(self._limits.turn_s)
        if not isinstance(event, Done):
            raise self._broken(Ending.PROTOCOL, f"expected to hear of a burst, heard {type(event).__name__}")
        return event

    def finish(self) -> tuple[Finished, Termination]:
        """Ask for the report and wait for the end of the process; errors as `ready`."""
        self._send(protocol.Finish())
        event = self._expect(self._limits.finish_s)
        if not isinstance(event, Finished):
            raise self._broken(Ending.PROTOCOL, f"expected a report, heard {type(event).__name__}")
        if event.run_id != self.spec.run_id:
            raise self._broken(Ending.PROTOCOL, f"the report is of another run, {event.run_id}")
        fault = implausible(event.measured)
        if fault:
            raise self._broken(Ending.PROTOCOL, f"the report is implausible: {fault}")
        self._expect_silence()
        exit_ = self._process.wait()
        if exit_.exit_code != 0:
            raise LinkBroken(_termination(Ending.CRASH, exit_, f"died after its report: {self._process.last_words()}"))
        return event, Termination(ending=Ending.OK, exit_code=0)

    def abandon(self) -> None:
        """End it without asking."""
        self._process.kill()
        self._process.wait()

    def _send(self, command: Command) -> None:
        try:
            self._process.write(protocol.encode(command))
        except OSError:
            raise self._dead() from None

    def _expect(self, timeout_s: float) -> Event:
        try:
            line = self._process.read_line(timeout_s)
        except TimeoutError:
            self._process.dump_stack()
            message = f"silent for {timeout_s:.0f} s, then killed"
            raise self._broken(Ending.TIMEOUT, message) from None
        if not line:
            raise self._dead()
        try:
            event = protocol.decode_event(line)
            huge = holds_huge_number(line)  # the report would refuse the whole dataset for it
        except (ValueError, RecursionError) as error:
            raise self._broken(Ending.PROTOCOL, f"not an event ({error}): {line[:200]!r}") from None
        if huge:
            raise self._broken(Ending.PROTOCOL, "said a number beyond 2^62")
        if isinstance(event, Failed):
            if event.run_id != self.spec.run_id:
                raise self._broken(Ending.PROTOCOL, f"the report is of another run, {event.run_id}")
            exit_ = self._process.wait()
            raise LinkBroken(_termination(event.ending, exit_, event.message))
        return event

    def _expect_silence(self) -> None:
        try:
            line = self._process.read_line(self._limits.goodbye_s)
        except TimeoutError:
            self._process.dump_stack()
            raise self._broken(Ending.TIMEOUT, "did not end after its report") from None
        if line:
            raise self._broken(Ending.PROTOCOL, f"said more after its report: {line[:200]!r}")

    def _dead(self) -> LinkBroken:
        exit_ = self._process.wait()
        words = self._process.last_words().strip()[-2000:]
        if exit_.oom_killed:
            return LinkBroken(_termination(Ending.OOM, exit_, "killed by the kernel for memory"))
        if exit_.signal is not None:
            return LinkBroken(_termination(Ending.CRASH, exit_, f"killed by signal {exit_.signal}: {words}"))
        return LinkBroken(_termination(Ending.PROTOCOL, exit_, f"ended without a report: {words}"))

    def _broken(self, ending: Ending, message: str) -> LinkBroken:
        self._process.kill()
        exit_ = self._process.wait()
        words = self._process.last_words().strip()[-2000:]
        return LinkBroken(_termination(ending, exit_, f"{message}\n{words}".strip()))


def _termination(ending: Ending, exit_: Exit, message: str) -> Termination:
    return Termination(
        ending=ending,
        exit_code=exit_.exit_code,
        signal=exit_.signal,
        oom_killed=exit_.oom_killed,
        message=message,
    )


def implausible(measured: Measured) -> str:
    """Why a report can't be true; empty when nothing speaks against it."""
    if measured.load_ns < 0:
        return "it loaded in a negative time"
    if measured.warmup is not None and any(duration <= 0 for duration in measured.warmup.token_ns):
        return "the warm-up holds a time that is not positive"
    if any(sample.duration_ns <= 0 or sample.read_bytes <= 0 for sample in measured.bandwidth):
        return "a pass over memory took no time or read nothing"
    return next((f"round {burst.round} {fault}" for burst in measured.bursts if (fault := _burst_fault(burst))), "")


def _burst_fault(burst: Burst) -> str:
    if burst.end_ns < burst.start_ns or burst.tokens < 0:
        return "ends before it starts"
    if any(duration <= 0 for duration in burst.token_ns) or burst.engine_ns < 0 or burst.sampling_ns < 0:
        return "holds a time that is not positive"
    if burst.token_ns and burst.tokens != len(burst.token_ns):
        return f"counts {burst.tokens} tokens and times {len(burst.token_ns)}"
    if (burst.samplings or 0) < 0 or (burst.harness_cpu_ns or 0) < 0:
        return "holds a count or a CPU time below zero"
    if burst.engine_ns + burst.sampling_ns > burst.end_ns - burst.start_ns:
        return "computes longer than it lasts"
    return ""
