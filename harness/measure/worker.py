"""The life of a worker: one task in, turns taken as they are asked for, one report out."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from harness import protocol
from harness.measure import hostinfo
from harness.measure.engine import Loader
from harness.measure.probed import probed_loader
from harness.measure.profiler import ProfileWork
from harness.measure.routing import RoutingWork
from harness.measure.timed import TimedWork
from harness.measure.work import Work
from harness.protocol import Done, Event, Failed, Finish, Finished, Ready, Task, WorkerFacts
from harness.terms import Ending, EngineKind, RunKind

ALLOCATION_WORDS = ("failed to allocate", "out of memory", "unable to allocate", "cannot allocate")


class Worker:
    """Reads commands from one stream and writes events to another; every failure becomes a `Failed` event."""

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
        self._commands = commands
        self._events = events

    def run(self) -> int:
        """Serve one task; the exit code of the process."""
        line = self._commands.readline()
        if not line:
            return 0
        task = protocol.decode_task(line)
        try:
            self._serve(task)
        except Exception as error:  # noqa: BLE001 - whatever native or Python code raised becomes a record
            traceback.print_exc(file=sys.stderr)
            ending = Ending.OOM if _is_allocation(error) else Ending.ERROR
            message = f"{type(error).__name__}: {error}"
            self._send(Failed(run_id=task.spec.run_id, ending=ending, message=message))
            return 1
        return 0

    def _serve(self, task: Task) -> None:
        facts = _facts(task)
        work = _work(task)
        step_ns = work.prepare()
        self._send(Ready(facts=facts, decode_token_ns=step_ns))
        while line := self._commands.readline():
            command = protocol.decode_command(line)
            if isinstance(command, Finish):
                measured, taints = work.finish()
                self._send(Finished(run_id=task.spec.run_id, facts=facts, measured=measured, taints=taints))
                return
            burst = work.turn(command)
            self._send(Done(tokens=burst.tokens, duration_ns=burst.end_ns - burst.start_ns))

    def _send(self, event: Event) -> None:
        self._events.write(protocol.encode(event))
        self._events.flush()


def _is_allocation(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in ALLOCATION_WORDS)


def _facts(task: Task) -> WorkerFacts:
    if task.spec.engine is EngineKind.FAKE:
        return hostinfo.facts({})
    from harness.llamacpp import build  # noqa: PLC0415 - llama_cpp loads only where it is used

    return hostinfo.facts(build.describe())


def _work(task: Task) -> Work:
    kind = task.spec.kind
    if kind in (RunKind.ROUNDS, RunKind.SOLO):
        return TimedWork(task, _loader(task))
    if kind is RunKind.PROFILE:
        return ProfileWork(task, probed_loader(task))
    if kind is RunKind.ROUTING:
        return RoutingWork(task, probed_loader(task))
    from harness.measure.bandwidth import BandwidthWork  # noqa: PLC0415 - numpy loads only where it is used

    return BandwidthWork(task)


def _loader(task: Task) -> Callable[[], Loader]:
    """The engine's module is imported inside: llama_cpp loads only where it is used, and within the timed load."""
    spec = task.spec

    def load_fake() -> Loader:
        from harness.measure.fake import FakeLoader  # noqa: PLC0415

        return FakeLoader(spec.model, spec.workload.batch_width)

    def load_llama() -> Loader:
        from harness.measure.llama import LlamaLoader  # noqa: PLC0415

        return LlamaLoader(Path(task.model_path), spec.settings, spec.workload)

    return load_fake if spec.engine is EngineKind.FAKE else load_llama
