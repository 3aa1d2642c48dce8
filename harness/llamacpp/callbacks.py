"""The stock evaluation callback of ggml's scheduler: what the router selected, node by node."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as low

from harness.llamacpp.native import Ggml
from harness.llamacpp.stretches import ProbeError

TOPK_PREFIX = b"ffn_moe_topk-"


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
            name: bytes = self._ggml.base.ggml_get_name(tensor)
            if not name.startswith(TOPK_PREFIX):
                return not ask
            if not ask:
                layer = int(name[len(TOPK_PREFIX) :])
                self.selected.setdefault(layer, []).extend(read_int_rows(self._ggml, tensor))
        except Exception as error:  # noqa: BLE001 - must not cross the C frames: stop the graph instead
            self.error = repr(error)
            return False
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
