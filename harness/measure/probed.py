"""What profiles and routing traces ask of an engine beyond a timed run, and weights that two engines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from harness.llamacpp.stretches import Cut, Steps
from harness.measure.engine import Coverage, Engine, Loader, Predicted
from harness.protocol import Task
from harness.terms import EngineKind


class ProfiledEngine(Engine, Protocol):
    """An engine whose decode steps can be timed node by node."""

    def start(self, how: Cut) -> None:
        """The next decode step is learned, those after it are timed."""

    def taken(self) -> Steps:
        """What was timed since `start`; then rest."""


class RoutedEngine(Engine, Protocol):
    """An engine that remembers which experts its decode steps selected."""

    def forget(self) -> None:
        """Start a new trace."""

    def selected(self) -> dict[int, list[tuple[int, ...]]]:
        """Layer number to the selected experts of each row since the trace was started."""


class ProbedLoader(Loader, Protocol):
    """A loader that also makes engines with probes; all engines share its weights."""

    def open_profiled(self) -> ProfiledEngine:
        """A further context, with the node callback."""

    def open_routed(self) -> RoutedEngine:
        """A further context, with the routing callback."""


E = TypeVar("E", bound=Engine)


class Borrowed(Generic[E]):
    """A `Loader` over weights that another one holds: it opens one probed engine and frees nothing."""

    def __init__(self, loader: ProbedLoader, opened: Callable[[], E], coverage: Coverage | None = None) -> None:
        self._loader = loader
        self._opened = opened
        self._coverage = coverage
        self.vocabulary_size = loader.vocabulary_size
        self.engine: E

    def cover_experts(self) -> Coverage:
        """Of the loader behind; a second engine of warm weights is told that there is nothing to do."""
        return self._coverage or self._loader.cover_experts()

    def touch_weights(self) -> bool:
        """Of the loader behind."""
        return self._loader.touch_weights()

    def open(self) -> E:
        """The probed engine."""
        self.engine = self._opened()
        return self.engine

    def predicted(self) -> Predicted:
        """Of the loader behind."""
        return self._loader.predicted()

    def chat_tokens(self, prompt: str) -> list[int]:
        """Of the loader behind."""
        return self._loader.chat_tokens(prompt)

    def text(self, tokens: Sequence[int]) -> str:
        """Of the loader behind."""
        return self._loader.text(tokens)

    def info(self) -> dict[str, str]:
        """Of the loader behind."""
        return self._loader.info()

    def close(self) -> None:
        """The weights are not this one's to free."""


def probed_loader(task: Task) -> Callable[[], ProbedLoader]:
    """Opens the loader that a task's engine has; llama_cpp loads only where it is used, within the timed load."""
    spec = task.spec

    def load_fake() -> ProbedLoader:
        from harness.measure.probed_fake import ProbedFakeLoader  # noqa: PLC0415

        return ProbedFakeLoader(spec.model, spec.workload.batch_width)

    def load_llama() -> ProbedLoader:
        from harness.measure.probed_llama import ProbedLlamaLoader  # noqa: PLC0415

        return ProbedLlamaLoader(Path(task.model_path), spec.settings, spec.workload)

    return load_fake if spec.engine is EngineKind.FAKE else load_llama
