"""Routing runs: which experts the routers select while text is generated, random tokens or one token are fed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from harness.errors import UsageError
from harness.measure.probed import Borrowed, ProbedLoader, RoutedEngine
from harness.measure.timed import TimedWork
from harness.protocol import Task, Turn
from harness.records import Burst, Measured, RoutingTrace, Taint
from harness.terms import BurstKind

Row = tuple[tuple[int, ...], ...]


class RoutingError(Exception):
    """The layers do not tell of the same number of rows."""


class RoutingWork:
    """A timed run whose engine also reads the routers' selection; its times are not those of a run without."""

    def __init__(self, task: Task, open_loader: Callable[[], ProbedLoader], root: Path = Path("/")) -> None:
        model = task.spec.model
        if not model.expert_count:
            raise UsageError("a dense model has no routing", where=model.name, cure="trace a model with experts")
        self._spec = task.spec
        self._open_loader = open_loader
        self._timed = TimedWork(task, self._open, root)
        self._loader: ProbedLoader
        self._borrowed: Borrowed[RoutedEngine]
        self._layers: tuple[int, ...] = ()
        self._rows: list[Row] = []
        self._burst_steps: list[int] = []

    def _open(self) -> Borrowed[RoutedEngine]:
        self._loader = self._open_loader()
        self._borrowed = Borrowed(self._loader, self._loader.open_routed)
        return self._borrowed

    def prepare(self) -> int:
        """As a timed run."""
        return self._timed.prepare()

    def turn(self, turn: Turn) -> Burst:
        """One burst; the selection of decode steps is kept, all of them: no time is taken from it."""
        engine = self._borrowed.engine
        engine.forget()
        burst = self._timed.turn(turn)
        if turn.kind is not BurstKind.PREFILL:
            self._keep(engine.selected(), burst.tokens)
        return burst

    def _keep(self, selected: dict[int, list[tuple[int, ...]]], steps: int) -> None:
        self._layers = tuple(sorted(selected))
        expected = steps * self._spec.workload.batch_width
        if not self._layers or any(len(rows) != expected for rows in selected.values()):
            counts = {layer: len(rows) for layer, rows in sorted(selected.items())}
            raise RoutingError(f"{expected} rows were decoded, the layers tell of {counts}")
        self._rows.extend(zip(*(selected[layer] for layer in self._layers), strict=True))
        self._burst_steps.append(steps)

    def finish(self) -> tuple[Measured, tuple[Taint, ...]]:
        """All bursts and the trace."""
        measured, taints = self._timed.finish()
        self._loader.close()
        return replace(measured, routing=self._trace()), taints

    def _trace(self) -> RoutingTrace | None:
        if not self._rows:
            return None
        return RoutingTrace(
            expert_count=self._spec.model.expert_count,
            expert_used_count=len(self._rows[0][0]),
            layer_numbers=self._layers,
            batch_width=self._spec.workload.batch_width,
            burst_steps=tuple(self._burst_steps),
            selected=tuple(self._rows),
        )
