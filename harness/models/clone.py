"""Clones: proxies of any GGUF file, for the test that real weights and random ones take the same time."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.models import check
from harness.models.contents import Filling, Placed
from harness.models.gguf_header import Value
from harness.models.proxy import DEFAULT_SEED, ProxyFile, describe
from harness.models.proxy_file import Progress, write_layout
from harness.models.proxy_layout import Layout

KEPT_KEYS = ("general.name", "general.file_type", "general.quantization_version")


def clone(source: Path, *, out: Path, seed: int = DEFAULT_SEED, progress: Progress | None = None) -> ProxyFile:
    """A proxy with tensors, types and hyperparameters of any GGUF file, and no vocabulary.

    Raises:
        IntegrityError: the source is no sound GGUF file.
        UsageError: a type whose blocks cannot be made, or no vocabulary size to declare.
        EnvironmentLacking: as in `ensure`.
    """
    original = check.check(source)
    if out.exists() and out.samefile(source):
        raise UsageError("a clone would overwrite its source", where=str(out), cure="choose another --out")
    stamp = write_layout(clone_layout(original), _clone_filling(original, seed), out, progress)
    return describe(out, stamp, source.stem, "clone")


def clone_layout(original: check.GgufFile) -> Layout:
    """Header of a clone: the architecture's own keys, without tokenizer and authorship."""
    prefix = f"{original.architecture}."
    kept: dict[str, Value] = {key: value for key, value in original.metadata.items() if key.startswith(prefix)}
    kept.update({key: original.metadata[key] for key in KEPT_KEYS if key in original.metadata})
    kept[f"{prefix}vocab_size"] = _vocabulary(original)
    kept["tokenizer.ggml.model"] = "none"
    placed = tuple(
        Placed(name=tensor.name, dims=tensor.shape, type_name=tensor.type_name, size_bytes=tensor.size_bytes)
        for tensor in original.tensors
    )
    return Layout(architecture=original.architecture, metadata=kept, tensors=placed)


def _vocabulary(original: check.GgufFile) -> int:
    """Rows of the embedding, which the graph multiplies by; a tokenizer may have fewer tokens."""
    for tensor in original.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[1]
    raise UsageError("the file has no token embedding to tell its vocabulary from", where=original.architecture)


def _clone_filling(original: check.GgufFile, seed: int) -> Filling:
    """Gemma scales embeddings by the root of their width, Granite by a key of its own."""
    scale = original.metadata.get(f"{original.architecture}.embedding_scale", 1.0)
    if not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise UsageError(f"its embedding_scale is {scale!r}, no positive number", where=original.architecture)
    if original.architecture.startswith("gemma"):
        scale = original.count("embedding_length") ** 0.5
    used = original.count("expert_used_count")
    tied = all(tensor.name != "output.weight" for tensor in original.tensors)
    return Filling(seed=seed, embedding_scale=float(scale), tied=tied, experts_used=used)
