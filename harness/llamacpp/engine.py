"""llama.cpp through its low-level API: load, prefill, decode, arg-max, KV cache, pausable threads."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.llamacpp import native
from harness.llamacpp.binding import low
from harness.records import Settings, Workload
from harness.terms import FlashAttention, KvType

MIB = 1024 * 1024
FLASH = {FlashAttention.AUTO: -1, FlashAttention.ON: 1, FlashAttention.OFF: 0}
LOAD_MMAP, LOAD_PLAIN = 1, 0  # enum llama_load_mode


class EngineError(Exception):
    """llama.cpp refused: the message carries its own last words."""


@dataclass(frozen=True)
class PredictedMemory:
    """What llama.cpp said it would allocate, in bytes, read from its log."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int


def _kv_type(kind: KvType) -> int:
    return int(low.GGML_TYPE_F16 if kind is KvType.F16 else low.GGML_TYPE_Q8_0)


def _sum_buffers(log: str, label: str) -> int:
    sizes = re.findall(rf"{label} buffer size =\s+([0-9.]+) MiB", log)
    return round(sum(float(size) for size in sizes) * MIB)


class LlamaModel:
    """One GGUF file in memory; contexts share it."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.log = native.LogCapture()
        self.log.install(lambda line: print(line, end="", file=sys.stderr))  # noqa: T201 - native log goes to stderr
        low.llama_backend_init()
        self.ggml = native.load()
        self.path = path
        params = low.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        params.load_mode = LOAD_MMAP if settings.use_mmap else LOAD_PLAIN
        params.use_extra_bufts = settings.repack
        self.handle = low.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise EngineError(self._last_words("could not load the model"))
        self.vocabulary_size = int(low.llama_vocab_n_tokens(low.llama_model_get_vocab(self.handle)))
        self.parameters = int(low.llama_model_n_params(self.handle))
        self.layers = int(low.llama_model_n_layer(self.handle))

    def _last_words(self, what: str) -> str:
        return f"{what}: {' '.join(''.join(self.log.lines[-3:]).split())}"

    def metadata(self, key: str) -> str | None:
        """A scalar of the GGUF header as text; None when the file has no such key."""
        buffer = ctypes.create_string_buffer(4096)
        length = low.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def expert_count(self) -> int:
        """Experts a layer; 0 for a dense model."""
        return int(self.metadata(f"{self.metadata('general.architecture')}.expert_count") or 0)

    def close(self) -> None:
        """Free the weights."""
        if self.handle:
            low.llama_model_free(self.handle)
            self.handle = None


class LlamaContext:
    """A context of a model: KV cache, threads, and the four things a measurement asks for."""

    def __init__(
        self, model: LlamaModel, settings: Settings, workload: Workload, *, callback: Any = None, threads: int = 0
    ) -> None:
        self.model = model
        self._callback = callback  # kept alive: the C side holds only its address
        log_start = len(model.log.lines)
        self.handle = low.llama_init_from_model(model.handle, self._params(settings, workload, callback))
        if not self.handle:
            raise EngineError(model._last_words("could not make a context"))
        self.memory = low.llama_get_memory(self.handle)
        self.threadpool = native.Threadpool(model.ggml, threads or settings.threads)
        self.threadpool.attach(self.handle)
        self.width = workload.batch_width
        self.tokens_held = 0
        self._logits_row = -1  # of sequence 0 in the last batch: a prompt's last row, a step's first
        self._batch_tokens = int(low.llama_n_batch(self.handle))
        self._greedy = low.llama_sampler_init_greedy()
        self._batch = low.llama_batch_init(max(self._batch_tokens, self.width), 0, 1)
        self._log = "".join(model.log.lines[log_start:])

    @staticmethod
    def _params(settings: Settings, workload: Workload, callback: Any) -> Any:
        params = low.llama_context_default_params()
        params.n_ctx = settings.context_tokens
        params.n_batch = settings.batch_tokens
        params.n_ubatch = settings.ubatch_tokens
        params.n_seq_max = workload.batch_width
        params.kv_unified = True  # sequences of a wide batch share the prefix
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = FLASH[settings.flash_attention]
        params.type_k = params.type_v = _kv_type(workload.kv_type)
        params.offload_kqv = settings.gpu_layers > 0
        if callback is not None:
            params.cb_eval = callback
        return params

    def predicted_memory(self) -> PredictedMemory:
        """Weights, KV cache and compute buffers as llama.cpp logged them (rounded to 0.01 MiB)."""
        return PredictedMemory(
            weights_bytes=_sum_buffers(self.model.log.text(), "model"),
            kv_bytes=_sum_buffers(self._log, "KV") + _sum_buffers(self._log, "RS"),
            compute_bytes=_sum_buffers(self._log, "compute") + _sum_buffers(self._log, "output"),
        )

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append tokens to sequence 0, in batches; returns when the device is done."""
        for start in range(0, len(tokens), self._batch_tokens):
            chunk = tokens[start : start + self._batch_tokens]
            last = start + len(chunk) == len(tokens)
            for index, token in enumerate(chunk):
                self._put(index, token, self.tokens_held + index, 0, wants_logits=last and index == len(chunk) - 1)
            self._batch.n_tokens = len(chunk)
            self._run()
            self.tokens_held += len(chunk)
        self._logits_row = -1

    def place(self, tokens: Sequence[int]) -> None:
        """Lay out one token for each sequence at the next position."""
        for sequence, token in enumerate(tokens):
            self._put(sequence, token, self.tokens_held, sequence, wants_logits=True)
        self._batch.n_tokens = self.width

    def step(self) -> None:
        """Decode what was placed; returns when the device is done."""
        self._run()
        self.tokens_held += 1
        self._logits_row = 0

    def _put(self, index: int, token: int, position: int, sequence: int, *, wants_logits: bool) -> None:
        batch = self._batch
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = wants_logits

    def _run(self) -> None:
        status = low.llama_decode(self.handle, self._batch)
        low.llama_synchronize(self.handle)
        if status != 0:
            reason = {1: "no room in the KV cache", 2: "aborted by the callback"}.get(status, "see the log")
            raise EngineError(f"llama_decode returned {status}: {reason}")

    def argmax(self) -> int:
        """The most likely next token of sequence 0, by llama.cpp's own greedy sampler."""
        return int(low.llama_sampler_sample(self._greedy, self.handle, self._logits_row))

    def logits_finite(self) -> bool:
        """Whether the last logits hold neither NaN nor infinity: a broken model is not worth timing."""
        logits = low.llama_get_logits_ith(self.handle, -1)
        return all(map(math.isfinite, logits[: self.model.vocabulary_size]))

    def truncate(self, depth_tokens: int) -> bool:
        """Forget everything from a position on; False when this cache cannot forget in part (recurrent state)."""
        if self.tokens_held == depth_tokens and self.width == 1:
            return True
        if depth_tokens == 0:
            low.llama_memory_clear(self.memory, False)
            self.tokens_held = 0
            return True
        if self.tokens_held < depth_tokens or not low.llama_memory_seq_rm(self.memory, 0, depth_tokens, -1):
            return False
        self.tokens_held = depth_tokens
        return True

    def share_prefix(self) -> None:
        """Give every further sequence of a wide batch the cache of sequence 0."""
        for sequence in range(1, self.width):
            low.llama_memory_seq_rm(self.memory, sequence, -1, -1)
            low.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def pause(self) -> None:
        """Leave the cores to others."""
        self.threadpool.pause()

    def resume(self) -> None:
        """Take the cores again."""
        self.threadpool.resume()

    def close(self) -> None:
        """Free the context, then its threads."""
        if self.handle:
            low.llama_sampler_free(self._greedy)
            low.llama_batch_free(self._batch)
            low.llama_free(self.handle)
            self.handle = None
            self.threadpool.close()
