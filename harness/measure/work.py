"""What a worker does, whatever the kind of run: get ready, take turns, hand over what was measured."""

from __future__ import annotations

from typing import Protocol

from harness.protocol import Turn
from harness.records import Burst, Measured, Taint


class Work(Protocol):
    """One kind of run."""

    def prepare(self) -> int:
        """Load and warm up, threads paused at the end; the usual nanoseconds of a decode step."""

    def turn(self, turn: Turn) -> Burst:
        """One burst; threads paused at the end."""

    def finish(self) -> tuple[Measured, tuple[Taint, ...]]:
        """Everything measured, and what the worker itself holds against it."""
