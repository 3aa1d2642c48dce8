"""A fake engine for tests of everything around llama.cpp: it sleeps instead of computing, and its records say so."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from harness.measure.engine import Coverage, Predicted
from harness.records import ModelRef

TOKEN_S_PER_GB = 0.002
PREFILL_SPEEDUP = 20
VOCABULARY = 1000


class FakeEngine:
    """Takes a time in proportion to the model's active bytes, with a little seeded noise."""

    def __init__(self, model: ModelRef, width: int) -> None:
        self.width = width
        self.tokens_held = 0
        self._token_s = TOKEN_S_PER_GB * model.weight_bytes_active / 1e9
        self._noise = random.Random(model.sha256)  # noqa: S311 - reproducible noise, no secret

    def _sleep(self, duration_s: float) -> None:
        time.sleep(duration_s * self._noise.uniform(0.98, 1.02))

    def prefill(self, tokens: Sequence[int]) -> None:
        """Sleep for the whole batch."""
        self._sleep(self._token_s * len(tokens) / PREFILL_SPEEDUP)
        self.tokens_held += len(tokens)

    def place(self, tokens: Sequence[int]) -> None:
        """Nothing to lay out."""

    def step(self) -> None:
        """Sleep for one token of each sequence."""
        self._sleep(self._token_s * (1 + 0.1 * (self.width - 1)))
        self.tokens_held += 1

    def argmax(self) -> int:
        """A function of the depth alone, so that repetitions agree."""
        return self.tokens_held * 7 % VOCABULARY

    def logits_finite(self) -> bool:
        """Always."""
        return True

    def truncate(self, depth_tokens: int) -> bool:
        """Forget from a position on."""
        if depth_tokens > self.tokens_held:
            return False
        self.tokens_held = depth_tokens
        return True

    def share_prefix(self) -> None:
        """There is no cache to share."""

    def pause(self) -> None:
        """There are no threads to pause."""

    def resume(self) -> None:
        """There are no threads to resume."""

    def close(self) -> None:
        """Nothing to free."""


class FakeLoader:
    """Stands in for the weights: nothing is read."""

    def __init__(self, model: ModelRef, width: int) -> None:
        self._model = model
        self._width = width
        self.vocabulary_size = VOCABULARY

    def cover_experts(self) -> Coverage:
        """Every expert counts as routed."""
        return Coverage(self._model.expert_count, self._model.expert_count, 0)

    def touch_weights(self) -> bool:
        """All of nothing was read."""
        return True

    def open(self) -> FakeEngine:
        """A new engine."""
        return FakeEngine(self._model, self._width)

    def predicted(self) -> Predicted:
        """The file's size stands for the weights."""
        return Predicted(self._model.size_bytes, 0, 0)

    def chat_tokens(self, prompt: str) -> list[int]:
        """One token a word."""
        return [len(word) for word in prompt.split()]

    def text(self, tokens: Sequence[int]) -> str:
        """Ids as decimal numbers."""
        return " ".join(map(str, tokens))

    def info(self) -> dict[str, str]:
        """Says what it is."""
        return {"engine": "fake: sleeps instead of computing"}

    def close(self) -> None:
        """Nothing to free."""
