"""The real loader: llama.cpp behind the `Loader` protocol, with the verified warm-up of all experts."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.llamacpp import pages, text
from harness.llamacpp.callbacks import RoutingProbe, WarmupProbe
from harness.llamacpp.engine import LlamaContext, LlamaModel
from harness.measure.engine import Coverage, Predicted
from harness.records import Settings, Workload

COVER_TOKENS = 128  # with uniform routing of 8 of 64, an expert is missed once in 10^7; more passes find few more
READ_BYTES = 16 * 1024 * 1024


class LlamaLoader:
    """Weights of one run, and the context that is measured."""

    def __init__(self, path: Path, settings: Settings, workload: Workload) -> None:
        if settings.memory_limit_bytes:
            forget_pages(path)
        self.model = LlamaModel(path, settings)
        self._settings = settings
        self._workload = workload
        self._context: LlamaContext | None = None
        self._matrices: tuple[pages.Span, ...] = ()
        self.vocabulary_size = self.model.vocabulary_size

    def cover_experts(self) -> Coverage:
        """Route random tokens through a small context of its own, freed before the measured one is made.

        Routing is read from the router's own selection; experts that it never chose are brought in by reading the file.
        On the way it is learned where the weights lie. A dense model reads all of them with any token.
        """
        experts_total = self.model.expert_count() * self.model.layers
        if experts_total == 0:
            return Coverage(0, 0, 0)
        probe = WarmupProbe(self.model.ggml)
        self._route(probe)
        covered = min(probe.covered(), experts_total)
        if covered < experts_total:
            self._read_file()
        self._matrices = () if self._settings.gpu_layers else probe.matrices
        return Coverage(experts_total, covered, experts_total - covered)

    def touch_weights(self) -> bool:
        """Read one byte of every page of a MoE model's weights, where they are in this process's memory."""
        pages.touch(self._matrices)
        return bool(self._matrices)

    def _route(self, probe: RoutingProbe) -> None:
        small = msgspec.structs.replace(
            self._settings, context_tokens=2 * COVER_TOKENS, batch_tokens=COVER_TOKENS, ubatch_tokens=COVER_TOKENS
        )
        single = msgspec.structs.replace(self._workload, batch_width=1)
        context = LlamaContext(self.model, small, single, callback=probe.callback)
        draw = random.Random(0)  # noqa: S311 - token ids, no secret
        context.prefill([draw.randrange(self.vocabulary_size) for _ in range(COVER_TOKENS)])
        context.close()

    def _read_file(self) -> None:
        with self.model.path.open("rb", buffering=0) as file:
            buffer = bytearray(READ_BYTES)
            while file.readinto(buffer):
                pass

    def open(self) -> LlamaContext:
        """The measured context."""
        self._context = LlamaContext(self.model, self._settings, self._workload)
        return self._context

    def predicted(self) -> Predicted:
        """llama.cpp's own sizes; valid once the context is open."""
        if self._context is None:
            return Predicted(0, 0, 0)
        memory = self._context.predicted_memory()
        return Predicted(memory.weights_bytes, memory.kv_bytes, memory.compute_bytes)

    def chat_tokens(self, prompt: str) -> list[int]:
        """The prompt as one user turn."""
        return text.tokenize(self.model, text.chat_text(self.model, prompt))

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text."""
        return text.detokenize(self.model, tokens)

    def info(self) -> dict[str, str]:
        """Parameters that llama.cpp counted, and the buffers it chose."""
        lines = [line for line in self.model.log.text().splitlines() if "buffer size" in line]
        return {
            "parameters": str(self.model.parameters),
            "description": self.model.metadata("general.name") or "",
            "buffers": "; ".join(" ".join(line.split(":", 1)[-1].split()) for line in lines),
        }

    def close(self) -> None:
        """Free the weights; contexts first."""
        self.model.close()


def forget_pages(path: Path) -> None:
    """Let the kernel drop a file's pages: those that somebody else read are not charged to a limit of ours."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
