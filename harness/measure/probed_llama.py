"""llama.cpp with probes attached."""

from __future__ import annotations

from harness.llamacpp.profiling import ProfiledContext, RoutedContext
from harness.measure.llama import LlamaLoader


class ProbedLlamaLoader(LlamaLoader):
    """The real loader; its further contexts carry the stock evaluation callback."""

    def open_profiled(self) -> ProfiledContext:
        """A further context, with the node callback."""
        return ProfiledContext(self.model, self._settings, self._workload)

    def open_routed(self) -> RoutedContext:
        """A further context, with the routing callback."""
        return RoutedContext(self.model, self._settings, self._workload)
