"""Where workers run, as the runner sees it: something that starts processes which speak lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.errors import EnvironmentLacking
from harness.protocol import Task
from harness.terms import EnvironmentKind


class HostLost(EnvironmentLacking):
    """The engine no longer answers: nothing is known of the runs under way, so nothing is recorded of them."""


@dataclass(frozen=True)
class Exit:
    """How a process ended; the three are kept apart."""

    exit_code: int | None
    signal: int | None
    oom_killed: bool


class WorkerProcess(Protocol):
    """A started worker."""

    def write(self, data: bytes) -> None:
        """Send a line; BrokenPipeError when the worker is gone."""

    def read_line(self, timeout_s: float) -> bytes:
        """Next line of events; empty at the end of the stream, TimeoutError when none comes in time."""

    def kill(self) -> None:
        """End it now; harmless when it has ended."""

    def dump_stack(self) -> None:
        """Make it write its Python stack to stderr: the last thing known of a worker that hangs."""

    def wait(self) -> Exit:
        """How it ended; kills it when it does not end within some seconds; HostLost when nobody can tell."""

    def last_words(self) -> str:
        """The tail of what it and native code wrote to stderr."""


class Environment(Protocol):
    """Native or container."""

    kind: EnvironmentKind
    build_id: str  # what identifies the build of the engine, part of every run_id
    image_digest: str  # "" when native

    def start(self, task: Task) -> WorkerProcess:
        """Start a worker for a task and send it the task."""

    def close(self) -> None:
        """Remove whatever of ours is left."""
