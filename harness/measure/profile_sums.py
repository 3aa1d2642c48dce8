"""Node times summed as they come: by category and token, by layer and category."""

from __future__ import annotations

from collections import Counter

from harness.llamacpp.stretches import ProbeError, Steps
from harness.llamacpp.traffic import traffic
from harness.records import NodeProfile
from harness.terms import NodeCategory, ProfileMode


class ProfileSums:
    """Takes in one profiled burst after another."""

    def __init__(self, mode: ProfileMode) -> None:
        self._mode = mode
        self._rounds: list[int] = []
        self._burst_tokens: list[int] = []
        self._total_ns: list[int] = []
        self._category_ns: dict[NodeCategory, list[int]] = {}
        self._layer_ns: dict[str, Counter[NodeCategory]] = {}
        self._first: Steps | None = None

    def add(self, round_number: int, steps: Steps, settle_steps: int) -> None:
        """One burst; its first `settle_steps` timed steps are left out.

        Raises:
            ProbeError: another graph than before: their sums would not be of one thing.
        """
        if self._first is None:
            self._first = steps
            self._category_ns = {part.category: [] for part in steps.parts}
        if steps.parts != self._first.parts:
            raise ProbeError(f"the graph changed to {len(steps.parts)} stretches from {len(self._first.parts)}")
        counted = steps.times_ns[settle_steps:]
        self._rounds.append(round_number)
        self._burst_tokens.append(len(counted))
        for times_ns in counted:
            self._add_step(steps, times_ns)

    def _add_step(self, steps: Steps, times_ns: list[int]) -> None:
        sums: Counter[NodeCategory] = Counter()
        for part, time_ns in zip(steps.parts, times_ns, strict=True):
            sums[part.category] += time_ns
            self._layer_ns.setdefault(part.layer, Counter())[part.category] += time_ns
        self._total_ns.append(sum(times_ns))
        for category, column in self._category_ns.items():
            column.append(sums[category])

    def profile(self, empty_ns: list[int]) -> NodeProfile | None:
        """The record; None when no burst was profiled."""
        if self._first is None:
            return None
        stretches = Counter(part.category for part in self._first.parts)
        return NodeProfile(
            mode=self._mode,
            rounds=tuple(self._rounds),
            burst_tokens=tuple(self._burst_tokens),
            total_ns=tuple(self._total_ns),
            category_ns={category: tuple(column) for category, column in self._category_ns.items()},
            category_stretches=dict(stretches),
            layer_ns={layer: dict(sums) for layer, sums in self._layer_ns.items()},
            nodes=len(self._first.graph.nodes),
            empty_ns=tuple(empty_ns),
            traffic=traffic(self._first.graph),
            unknown_nodes=self._first.graph.unknown,
        )
