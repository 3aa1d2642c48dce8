"""A process of the bundle in a container of its own, spoken to through the attached stream."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from typing import Any

from harness.errors import EnvironmentLacking
from harness.study.environments.attached import Demultiplexer, Stream
from harness.study.environments.base import Exit, HostLost
from harness.study.environments.container import Engine
from harness.study.environments.huge_pages import with_huge_pages

STOP_WAIT_S = 10.0
KILL_WAIT_S = 20.0
STACK_WAIT_S = 0.5
OOM_WORD_S = 2.0  # the engine hears of a kill for memory and of the process's end on two ways
SIGNAL_BASE = 128  # a shell's and an engine's way to write "ended by signal N" as an exit code
UNKNOWN = Exit(None, None, oom_killed=False)


class ContainerProcess:
    """One process in a container, which is removed when its end has been read."""

    def __init__(self, engine: Engine, container_id: str, stream: Stream) -> None:
        self.container_id = container_id
        self._engine = engine
        self._stream = stream
        self._demultiplexer = Demultiplexer()
        self._killed_by_us = False
        self._exit: Exit | None = None

    def write(self, data: bytes) -> None:
        """Send a line."""
        try:
            self._stream.send(data)
        except OSError as error:
            raise BrokenPipeError(f"the worker's input is closed: {error}") from None

    def read_line(self, timeout_s: float) -> bytes:
        """Next line; empty at the end."""
        deadline = time.monotonic() + timeout_s
        while (line := self._demultiplexer.line()) is None:
            data = self._stream.receive(deadline - time.monotonic())
            if data is None:
                raise TimeoutError
            if not data:
                return self._demultiplexer.rest()
            self._demultiplexer.feed(data)
        return line

    def kill(self) -> None:
        """SIGKILL to everything in the container."""
        if self._exit is None:
            with contextlib.suppress(HostLost):  # `wait` tells of that
                self._killed_by_us = self._engine.signal(self.container_id, "SIGKILL") or self._killed_by_us

    def dump_stack(self) -> None:
        """SIGUSR1 makes faulthandler write all stacks."""
        with contextlib.suppress(HostLost):  # then there is no stack to tell of
            self._engine.signal(self.container_id, "SIGUSR1")
            self._drain(STACK_WAIT_S)

    def wait(self) -> Exit:
        """Close its input, give it some seconds, then kill it; read how it ended, remove the container."""
        if self._exit is not None:
            return self._exit
        self._exit = UNKNOWN  # also where the engine is lost: nobody asks it twice
        try:
            self._stream.end_input()
            if not self._drain(STOP_WAIT_S):
                self._killed_by_us = self._engine.signal(self.container_id, "SIGKILL")
                self._drain(KILL_WAIT_S)
            self._exit = self._read_exit()
        finally:
            self._stream.close()
            self._engine.remove(self.container_id)
        return self._exit

    def last_words(self) -> str:
        """Tail of stderr."""
        return self._demultiplexer.tail()

    def _drain(self, timeout_s: float) -> bool:
        """Take what comes until the end of the stream, which is the end of the container; False: not in time."""
        deadline = time.monotonic() + timeout_s
        while (data := self._stream.receive(deadline - time.monotonic())) is not None:
            if not data:
                return True
            self._demultiplexer.feed(data)
        return False

    def _read_exit(self) -> Exit:
        code = self._engine.wait(self.container_id)
        if code <= SIGNAL_BASE:
            return Exit(code, None, oom_killed=False)
        number = code - SIGNAL_BASE
        by_kernel = number == signal.SIGKILL and not self._killed_by_us and self._was_killed_for_memory()
        return Exit(None, number, oom_killed=by_kernel)

    def _was_killed_for_memory(self) -> bool:
        deadline = time.monotonic() + OOM_WORD_S
        while not self._engine.was_killed_for_memory(self.container_id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def launch(
    engine: Engine, image: str, *, host: Mapping[str, Any], labels: Mapping[str, str], user: str, module: str = ""
) -> ContainerProcess:
    """Start a container.

    Args:
        engine: where.
        image: its id.
        host: options of the host configuration.
        labels: by which ours are known.
        user: who the process is.
        module: of the bundle, run in place of the worker.

    Raises:
        EnvironmentLacking: the engine refuses.
        HostLost: it does not answer.
    """
    instead = {"entrypoint": ["python", "-m", module]} if module else {}
    environ = with_huge_pages({})
    container_id = engine.create(image, host=host, labels=dict(labels), user=user, environment=environ, **instead)
    try:
        stream = engine.attach(container_id)
        try:
            engine.start(container_id)
        except EnvironmentLacking:
            stream.close()
            raise
    except EnvironmentLacking:
        with contextlib.suppress(HostLost):  # the next study removes it; the first error is told
            engine.remove(container_id)
        raise
    return ContainerProcess(engine, container_id, stream)
