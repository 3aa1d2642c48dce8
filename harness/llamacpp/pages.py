"""Where the weights lie in this process, and how to make sure that they are still there.

A hypervisor may take pages away that were not used for a while. The guest counts no fault; the next access waits. A
dense model reads all of its weights with every token, so it pays with the first token after a switch, which does not
count. A MoE model reads a few experts a token and would pay with every token of a burst. Reading one byte of every page
before a burst puts both in the same place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

PAGE_BYTES = 4096  # the smallest there is; of a larger page more bytes than one are read


@dataclass(frozen=True)
class Span:
    """Memory of one tensor."""

    address: int
    size_bytes: int


def touch(spans: Iterable[Span]) -> None:
    """Read one byte of every page. The memory must be this process's own and stay mapped meanwhile."""
    for span in spans:
        memory = (ctypes.c_uint8 * span.size_bytes).from_address(span.address)
        memoryview(memory)[::PAGE_BYTES].tobytes()
