"""Real text for weights with a vocabulary: the model's own chat template and tokenizer, through llama.cpp's C API."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from harness.llamacpp.binding import low
from harness.llamacpp.engine import EngineError, LlamaModel

PLAIN_TURN = "User: {prompt}\nAssistant:"  # for a base model, which carries no template
PIECE_BYTES = 256


def chat_text(model: LlamaModel, prompt: str) -> str:
    """The prompt as one user turn, wrapped by the template that the GGUF carries."""
    template = low.llama_model_chat_template(model.handle, None)
    if not template:
        return PLAIN_TURN.format(prompt=prompt)
    message = (low.llama_chat_message * 1)(low.llama_chat_message(b"user", prompt.encode()))
    buffer = ctypes.create_string_buffer(4 * len(prompt.encode()) + 4096)
    length = low.llama_chat_apply_template(template, message, 1, True, buffer, len(buffer))
    if not 0 <= length <= len(buffer):
        raise EngineError("llama.cpp does not know this model's chat template")
    return buffer.raw[:length].decode()


def tokenize(model: LlamaModel, text: str) -> list[int]:
    """Token ids, special tokens parsed and the model's own begin-of-text added."""
    vocabulary = low.llama_model_get_vocab(model.handle)
    raw = text.encode()
    tokens = (low.llama_token * (len(raw) + 16))()
    count = low.llama_tokenize(vocabulary, raw, len(raw), tokens, len(tokens), True, True)
    if count <= 0:
        raise EngineError("these weights have no vocabulary: text workloads need released weights")
    return list(tokens[:count])


def detokenize(model: LlamaModel, tokens: Sequence[int]) -> str:
    """Text of token ids, special tokens shown."""
    vocabulary = low.llama_model_get_vocab(model.handle)
    buffer = ctypes.create_string_buffer(PIECE_BYTES)
    pieces = []
    for token in tokens:
        length = low.llama_token_to_piece(vocabulary, token, buffer, len(buffer), 0, True)
        pieces.append(buffer.raw[: max(0, length)])
    return b"".join(pieces).decode("utf-8", "replace")
