"""What a measurement asks of an engine; llama.cpp's context and the fake engine both answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Engine(Protocol):
    """A loaded model with one KV cache."""

    width: int
    tokens_held: int

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append tokens; return when the device is done."""

    def place(self, tokens: Sequence[int]) -> None:
        """Lay out the next decode step, one token a sequence: the caller's work, not the engine's."""

    def step(self) -> None:
        """Decode what was placed; return when the device is done."""

    def argmax(self) -> int:
        """Most likely next token of the first sequence."""

    def logits_finite(self) -> bool:
        """Whether the last logits are numbers."""

    def truncate(self, depth_tokens: int) -> bool:
        """Forget the cache from a position on; False when it cannot forget in part."""

    def share_prefix(self) -> None:
        """Give every sequence the cache of the first."""

    def pause(self) -> None:
        """Leave the cores to others."""

    def resume(self) -> None:
        """Take the cores again."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class Predicted:
    """Memory that the engine says it takes, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int


@dataclass(frozen=True)
class Coverage:
    """How the warm-up reached the experts: all of them, by routing or by reading the file."""

    experts_total: int
    experts_routed: int
    experts_touched: int


class Loader(Protocol):
    """Brings weights into memory and makes engines of them."""

    vocabulary_size: int

    def cover_experts(self) -> Coverage:
        """Route tokens until every expert has been selected, else read the rest."""

    def touch_weights(self) -> bool:
        """Make sure that no page of the weights was taken away while others were at work; after `cover_experts`.

        False where that was not needed: a dense model's first token does it, and nobody takes a device's own memory.
        """

    def open(self) -> Engine:
        """The context to be measured."""

    def predicted(self) -> Predicted:
        """Valid once the context is open."""

    def chat_tokens(self, prompt: str) -> list[int]:
        """A prompt in the model's own template as token ids."""

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text."""

    def info(self) -> dict[str, str]:
        """The engine's own words about itself."""

    def close(self) -> None:
        """Free the weights."""
