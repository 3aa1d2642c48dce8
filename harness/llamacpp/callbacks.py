"""The stock evaluation callback of ggml's scheduler: what the router selected, node by node."""

from __future__ import annotations

import ctypes
from typing import Any

from harness.llamacpp.binding import low
from harness.llamacpp.native import Ggml
from harness.llamacpp.pages import Span
from harness.llamacpp.stretches import ProbeError

TOPK_PREFIX = b"ffn_moe_topk-"
WEIGHT_SUFFIX = b".weight"
MATMUL_OPS = frozenset({b"MUL_MAT", b"MUL_MAT_ID"})


class TensorHead(ctypes.Structure):
    """The leading fields of `struct ggml_tensor` (ggml.h): enough for shape, strides and sources."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
    )


def read_int_rows(ggml: Ggml, tensor: int) -> list[tuple[int, ...]]:
    """Rows of a two-dimensional int32 tensor, wherever it lives (CPU or GPU), honouring its row stride."""
    head = TensorHead.from_address(tensor)
    width, rows, stride = int(head.ne[0]), int(head.ne[1]), int(head.nb[1])
    row = (ctypes.c_int32 * width)()
    result = []
    for index in range(rows):
        ggml.base.ggml_backend_tensor_get(tensor, ctypes.byref(row), index * stride, ctypes.sizeof(row))
        result.append(tuple(row))
    return result


class RoutingProbe:
    """Collects the experts that each layer's router selects; every other node runs as it would."""

    def __init__(self, ggml: Ggml) -> None:
        self._ggml = ggml
        self.selected: dict[int, list[tuple[int, ...]]] = {}
        self.error: str = ""
        self.callback: Any = low.ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, _user: Any) -> bool:
        try:
            return self._look(tensor, ask=ask)
        except Exception as error:  # noqa: BLE001 - must not cross the C frames: stop the graph instead
            self.error = repr(error)
            return False

    def _look(self, tensor: int, *, ask: bool) -> bool:
        """What the scheduler wants to hear: asked, whether to stop at this node; else, whether to go on."""
        name: bytes = self._ggml.base.ggml_get_name(tensor)
        if not name.startswith(TOPK_PREFIX):
            return not ask
        if not ask:
            layer = int(name[len(TOPK_PREFIX) :])
            self.selected.setdefault(layer, []).extend(read_int_rows(self._ggml, tensor))
        return True

    def covered(self) -> int:
        """How many (layer, expert) pairs have been selected at least once.

        Raises:
            ProbeError: the callback failed on the way.
        """
        self.check()
        return sum(len({expert for row in rows for expert in row}) for rows in self.selected.values())

    def check(self) -> None:
        """Tell of a failed callback, which has no other way out of the C frames."""
        if self.error:
            raise ProbeError(f"reading the router's selection failed: {self.error}")

    def clear(self) -> None:
        """Forget what was seen."""
        self.selected = {}


class WarmupProbe(RoutingProbe):
    """Also learns where the matrices lie that a step multiplies by, whole or expert by expert."""

    def __init__(self, ggml: Ggml) -> None:
        super().__init__(ggml)
        self._matrices: dict[int, int] = {}

    @property
    def matrices(self) -> tuple[Span, ...]:
        """Each once; their addresses are of this process only where no layer is offloaded."""
        return tuple(Span(address, size) for address, size in self._matrices.items())

    def _look(self, tensor: int, *, ask: bool) -> bool:
        if ask and self._ggml.base.ggml_op_desc(tensor) in MATMUL_OPS:
            matrix = TensorHead.from_address(tensor).src[0]
            if self._ggml.base.ggml_get_name(matrix).endswith(WEIGHT_SUFFIX):
                self._matrices[self._ggml.base.ggml_get_data(matrix)] = int(self._ggml.base.ggml_nbytes(matrix))
        return super()._look(tensor, ask=ask)
