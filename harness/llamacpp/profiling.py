"""Times of graph nodes through the stock evaluation callback of ggml's scheduler: no patch, every backend.

The scheduler asks about each node; on yes it computes all nodes up to that one, synchronises, and calls again. The time
between the two calls is that of the stretch. A step can be *learned* first: names and shapes are read and nothing is
timed, since reading them costs more than most nodes take. Timed steps of the same graph only count nodes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

from harness.llamacpp.binding import low
from harness.llamacpp.callbacks import RoutingProbe, TensorHead, read_int_rows
from harness.llamacpp.engine import LlamaContext, LlamaModel
from harness.llamacpp.native import Ggml
from harness.llamacpp.nodes import Node, Source
from harness.llamacpp.stretches import Cut, Graph, ProbeError, Steps, cut, read_graph
from harness.records import Settings, Workload

MAPPED_OPS = frozenset({"MUL_MAT_ID", "ADD_ID"})  # read the selected experts of a tensor only


class _State(Enum):
    REST = "rest"
    LEARN = "learn"
    TIME = "time"


class NodeProbe:
    """A callback and what it saw; use `rest`, `learn` or `time` before a step and `end_step` after it."""

    def __init__(self, ggml: Ggml) -> None:
        self._ggml = ggml
        self._state = _State.REST
        self._asks: Sequence[bool] = ()
        self._index = 0
        self._start_ns = 0
        self._times_ns: list[int] = []
        self._nodes: list[Node] = []
        self._error = ""
        self.callback: Any = low.ggml_backend_sched_eval_callback(self._on_node)

    def rest(self) -> None:
        """Let the next steps run as they would without a callback."""
        self._begin(_State.REST, ())

    def learn(self) -> None:
        """Read names, operations and shapes during the next step."""
        self._begin(_State.LEARN, ())

    def time(self, asks: Sequence[bool]) -> None:
        """Time the stretches of the next step; `asks` says of each node whether a stretch ends with it."""
        self._begin(_State.TIME, asks)

    def _begin(self, state: _State, asks: Sequence[bool]) -> None:
        self._state, self._asks = state, asks
        self._index, self._times_ns, self._nodes = 0, [], []

    def end_step(self) -> list[int]:
        """Nanoseconds of each stretch of a timed step, in order; else nothing.

        Raises:
            ProbeError: the callback failed, or the graph was not the one that `asks` was made for.
        """
        if self._error:
            raise ProbeError(f"the node callback failed: {self._error}")
        if self._state is _State.TIME and self._index != len(self._asks):
            raise ProbeError(f"the graph has {self._index} nodes, {len(self._asks)} were learned")
        return self._times_ns

    def graph(self) -> Graph:
        """What the last step, a learned one, consisted of."""
        return read_graph(self._nodes)

    def _on_node(self, tensor: int, ask: bool, _user: Any) -> bool:
        # The clock is read as near to the C side as Python allows: first thing after a stretch, last before the next.
        if not ask:
            self._times_ns.append(time.monotonic_ns() - self._start_ns)
            return True
        try:
            wanted = self._wanted(tensor)
        except Exception as error:  # noqa: BLE001 - must not cross the C frames: `end_step` tells of it
            self._error = repr(error)
            return False
        self._start_ns = time.monotonic_ns()
        return wanted

    def _wanted(self, tensor: int) -> bool:
        if self._state is _State.TIME:
            index = self._index
            self._index = index + 1
            return self._asks[index]
        if self._state is _State.LEARN:
            self._nodes.append(self._node(tensor))
            return True
        return False

    def _node(self, tensor: int) -> Node:
        head = TensorHead.from_address(tensor)
        sources = [source for source in head.src if source]
        op = self._ggml.base.ggml_op_desc(tensor).decode()
        return Node(
            name=self._name(tensor),
            op=op,
            sources=tuple(
                Source(self._name(source), self._touched(op, place, sources)) for place, source in enumerate(sources)
            ),
            written_bytes=self._written(op, tensor, sources),
        )

    def _name(self, tensor: int) -> str:
        name: bytes = self._ggml.base.ggml_get_name(tensor)
        return name.decode("utf-8", "replace")

    def _touched(self, op: str, place: int, sources: Sequence[int]) -> int:
        """Bytes of a source that a step reads; a layer's routing is already known when its experts are asked about."""
        whole = int(self._ggml.base.ggml_nbytes(sources[place]))
        head = TensorHead.from_address(sources[place])
        if op == "SET_ROWS" and place == 2:
            return 0  # the destination once more
        if place > 0:
            return whole
        if op in MAPPED_OPS:
            selected = {expert for row in read_int_rows(self._ggml, sources[-1]) for expert in row}
            return whole * len(selected) // max(1, int(head.ne[2]))
        if op == "GET_ROWS":
            return whole * _elements(sources[1]) // max(1, int(head.ne[1] * head.ne[2] * head.ne[3]))
        return whole

    def _written(self, op: str, tensor: int, sources: Sequence[int]) -> int:
        whole = int(self._ggml.base.ggml_nbytes(tensor))
        return whole * _elements(sources[0]) // max(1, _elements(tensor)) if op == "SET_ROWS" else whole


def _elements(tensor: int) -> int:
    a, b, c, d = TensorHead.from_address(tensor).ne
    return int(a * b * c * d)


class ProfiledContext(LlamaContext):
    """A context whose decode steps are timed node by node or range by range, when asked to be."""

    def __init__(self, model: LlamaModel, settings: Settings, workload: Workload) -> None:
        self._probe = NodeProbe(model.ggml)
        self._cut = Cut.NONE
        self._taken: Steps | None = None
        super().__init__(model, settings, workload, callback=self._probe.callback)

    def start(self, how: Cut) -> None:
        """The next decode step is learned, those after it are timed; with `Cut.NONE` none is."""
        self._cut, self._taken = how, None

    def taken(self) -> Steps:
        """What was timed since `start`; then rest.

        Raises:
            ProbeError: nothing was.
        """
        steps = self._taken
        self.start(Cut.NONE)
        if steps is None:
            raise ProbeError("no decode step was profiled")
        return steps

    def prefill(self, tokens: Sequence[int]) -> None:
        """As without a probe."""
        self._probe.rest()
        super().prefill(tokens)

    def step(self) -> None:
        """Decode what was placed, under the probe when one was asked for."""
        if self._cut is Cut.NONE:
            self._probe.rest()
            super().step()
        elif self._taken is None:
            self._probe.learn()
            super().step()
            self._probe.end_step()
            graph = self._probe.graph()
            self._taken = Steps(graph, cut(graph, self._cut))
        else:
            self._probe.time(self._taken.plan.asks)
            super().step()
            self._taken.times_ns.append(self._probe.end_step())


class RoutedContext(LlamaContext):
    """A context that remembers which experts its decode steps selected."""

    def __init__(self, model: LlamaModel, settings: Settings, workload: Workload) -> None:
        self._probe = RoutingProbe(model.ggml)
        super().__init__(model, settings, workload, callback=self._probe.callback)

    def prefill(self, tokens: Sequence[int]) -> None:
        """Routing of a prompt is forgotten: its last layer computes the last token only."""
        super().prefill(tokens)
        self.forget()

    def forget(self) -> None:
        """Start a new trace."""
        self._probe.check()
        self._probe.clear()

    def selected(self) -> dict[int, list[tuple[int, ...]]]:
        """Layer number to the selected experts of each row since the trace was started."""
        self._probe.check()
        return dict(self._probe.selected)
