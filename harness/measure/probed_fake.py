"""The fake engine with fake probes: node times and routing by simple rules, for tests of all that comes after."""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.clock import now_ns
from harness.llamacpp.nodes import Node, Source
from harness.llamacpp.stretches import Cut, ProbeError, Steps, cut, read_graph
from harness.measure.fake import FakeEngine, FakeLoader
from harness.records import ModelRef

LAYERS = 2
EMPTY_NS = 500


def _layer_nodes(layer: int, *, experts: bool) -> list[tuple[Node, int]]:
    """Nodes of a layer as llama.cpp names them, each with its part of a thousand."""
    dense = [
        (_reads(f"ffn_up-{layer}", "MUL_MAT", f"blk.{layer}.ffn_up.weight"), 100),
        (_reads(f"ffn_out-{layer}", "MUL_MAT", f"blk.{layer}.ffn_down.weight"), 100),
    ]
    sparse = [
        (_reads(f"ffn_moe_logits-{layer}", "MUL_MAT", f"blk.{layer}.ffn_gate_inp.weight"), 20),
        (_reads(f"ffn_moe_up-{layer}", "MUL_MAT_ID", f"blk.{layer}.ffn_up_exps.weight"), 90),
        (_reads(f"ffn_moe_down-{layer}", "MUL_MAT_ID", f"blk.{layer}.ffn_down_exps.weight"), 70),
        (Node(name=f"ffn_moe_out-{layer}", op="ADD"), 20),
    ]
    return [
        (_reads(f"attn_norm-{layer}", "MUL", f"blk.{layer}.attn_norm.weight"), 20),
        (_reads(f"Qcur-{layer}", "MUL_MAT", f"blk.{layer}.attn_q.weight"), 80),
        (Node(name=f"Qcur-{layer} (reshaped)", op="RESHAPE"), 0),
        *(sparse if experts else dense),
    ]


def _reads(name: str, op: str, weight: str) -> Node:
    return Node(name=name, op=op, sources=(Source(weight, 1000),), written_bytes=100)


class FakeProfiledEngine(FakeEngine):
    """Divides the time that it slept among named nodes, in fixed proportions."""

    def __init__(self, model: ModelRef, width: int) -> None:
        super().__init__(model, width)
        layers = [pair for layer in range(LAYERS) for pair in _layer_nodes(layer, experts=model.expert_count > 0)]
        pairs = [*layers, (_reads("result_output", "MUL_MAT", "output.weight"), 100)]
        self._graph = read_graph(node for node, _ in pairs)
        self._parts = [part for _, part in pairs]
        self._cut = Cut.NONE
        self._taken: Steps | None = None

    def start(self, how: Cut) -> None:
        """The next step is learned, those after it are timed."""
        self._cut, self._taken = how, None

    def taken(self) -> Steps:
        """What was timed since `start`."""
        steps = self._taken
        self.start(Cut.NONE)
        if steps is None:
            raise ProbeError("no decode step was profiled")
        return steps

    def step(self) -> None:
        """Sleep, then say which node took how much of it."""
        start_ns = now_ns()
        super().step()
        if self._cut is Cut.NONE:
            return
        if self._taken is None:
            self._taken = Steps(self._graph, cut(self._graph, self._cut))
        else:
            self._taken.times_ns.append(self._stretches_ns(now_ns() - start_ns, self._taken.plan.ends))

    def _stretches_ns(self, slept_ns: int, ends: Sequence[int]) -> list[int]:
        whole = sum(self._parts)
        times_ns, first = [], 0
        for end in ends:
            times_ns.append(EMPTY_NS + slept_ns * sum(self._parts[first : end + 1]) // whole)
            first = end + 1
        return times_ns


class FakeRoutedEngine(FakeEngine):
    """Selects experts at random, seeded."""

    def __init__(self, model: ModelRef, width: int) -> None:
        super().__init__(model, width)
        self._model = model
        self._draw = random.Random(model.sha256)  # noqa: S311 - reproducible, no secret
        self._selected: dict[int, list[tuple[int, ...]]] = {}

    def forget(self) -> None:
        """Start a new trace."""
        self._selected = {}

    def selected(self) -> dict[int, list[tuple[int, ...]]]:
        """Layer number to the selected experts of each row."""
        return dict(self._selected)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Routing of a prompt is forgotten."""
        super().prefill(tokens)
        self.forget()

    def step(self) -> None:
        """Sleep, and draw experts for each sequence in each layer."""
        super().step()
        experts = range(self._model.expert_count)
        for layer in range(LAYERS):
            rows = [tuple(self._draw.sample(experts, self._model.expert_used_count)) for _ in range(self.width)]
            self._selected.setdefault(layer, []).extend(rows)


class ProbedFakeLoader(FakeLoader):
    """The fake loader with probes."""

    def __init__(self, model: ModelRef, width: int) -> None:
        super().__init__(model, width)
        self._probed_model, self._probed_width = model, width

    def open_profiled(self) -> FakeProfiledEngine:
        """A further engine, with node times."""
        return FakeProfiledEngine(self._probed_model, self._probed_width)

    def open_routed(self) -> FakeRoutedEngine:
        """A further engine, with routing."""
        return FakeRoutedEngine(self._probed_model, self._probed_width)
