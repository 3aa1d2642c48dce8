"""Hyperparameters of an architecture, and the variations of them that the experiments need."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from harness.errors import ConfigError, UsageError
from harness.models.registry import Model
from harness.records import Struct

Positive = Annotated[int, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Scalar = int | float | bool | str

TINY_LAYERS, TINY_WIDTH, TINY_FFN, TINY_VOCABULARY = 3, 256, 512, 1024
TINY_EXPERTS, TINY_USED = 8, 2


class Shape(Struct, frozen=True):
    """What determines the tensors and the graph of a model; widths in elements. 0: the architecture has none."""

    architecture: str  # general.architecture of the GGUF file
    layers: Positive
    embedding: Positive  # width of the residual stream
    heads: Positive
    kv_heads: Positive
    head: Positive  # width of a head's keys
    vocabulary: Positive
    context: Positive  # tokens the model was made for
    rms_epsilon: float
    rope_base: float
    tied: bool  # the output matrix is the embedding
    value_head: Count = 0  # width of a head's values, where it is another
    ffn: Count = 0  # width of the dense feed-forward block
    experts: Count = 0
    experts_used: Count = 0
    expert_ffn: Count = 0
    shared_ffn: Count = 0  # width of all shared experts together
    shared_experts: Count = 0
    dense_layers: Count = 0  # leading layers without experts
    rope_head: Count = 0  # width that the rotation covers, where it is not the whole head
    rope_factors: bool = False  # a tensor of rotation factors (Llama 3)
    kv_rank: Count = 0  # multi-head latent attention: width of the compressed keys and values
    convolution: Count = 0  # taps of the short convolution of layers without attention
    attention_layers: tuple[Count, ...] = ()  # layers with attention; empty: all
    embedding_scale: float = 1.0  # the graph multiplies embeddings by it
    extra: dict[str, Scalar] = msgspec.field(default_factory=dict)  # further metadata, keys unprefixed
    name: str = ""
    variant: str = ""  # what was varied: "experts=16", "dense-twin=active", "tiny", ...

    def __post_init__(self) -> None:
        """Refuses counts that contradict one another."""
        if self.experts_used > self.experts:
            raise ValueError(f"experts_used {self.experts_used} exceeds experts {self.experts}")
        if bool(self.experts) != bool(self.experts_used) or bool(self.experts) != bool(self.expert_ffn):
            raise ValueError("experts, experts_used and expert_ffn belong together")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")


def of(model: Model) -> Shape:
    """The shape of a registry entry.

    Raises:
        ConfigError: the entry has no shape table, or one that does not fit.
    """
    where = f"configs/models.toml: models.{model.name}.shape"
    if model.shape is None:
        raise ConfigError(["missing"], where=where, cure="give the entry a shape, or write a clone of its GGUF file")
    table: dict[str, Any] = {**model.shape, "architecture": model.architecture, "name": model.name}
    try:
        return msgspec.convert(table, Shape, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError([str(error)], where=where) from None


def varied(
    shape: Shape, *, experts: int | None = None, used: int | None = None, expert_ffn: int | None = None
) -> Shape:
    """The same model with other expert counts or another expert width: a member of the sparsity family.

    Raises:
        UsageError: a dense model, or counts that contradict one another.
    """
    if not shape.experts:
        raise UsageError("a dense model has no experts to vary", where=shape.name or shape.architecture)
    wanted = {"experts": experts, "experts_used": used, "expert_ffn": expert_ffn}
    changed = {key: value for key, value in wanted.items() if value is not None and value != getattr(shape, key)}
    if any(value < 1 for value in changed.values()):
        raise UsageError("experts, used experts and expert width are at least 1", where=shape.name)
    count, chosen = changed.get("experts", shape.experts), changed.get("experts_used", shape.experts_used)
    if chosen > count:
        raise UsageError(f"{chosen} of {count} experts cannot be used", where=shape.name, cure="lower --used")
    variant = ",".join([shape.variant, *(f"{key.removeprefix('experts_')}={n}" for key, n in changed.items())])
    return replace(shape, **changed, variant=variant.strip(","))


def dense_twin(shape: Shape, *, total: bool) -> Shape:
    """A dense model of the same attention and depth whose feed-forward block is as wide as the experts in use.

    Args:
        shape: a mixture of experts without leading dense layers.
        total: as wide as all experts, so equal total parameters; else equal active parameters.

    The twin is a llama graph: without OLMoE's norms of queries and keys, which are under 0.01 % of the bytes.
    """
    if not shape.experts:
        raise UsageError("a dense model is its own twin", where=shape.name or shape.architecture)
    width = shape.expert_ffn * (shape.experts if total else shape.experts_used) + shape.shared_ffn
    return replace(
        shape, architecture="llama", ffn=width, experts=0, experts_used=0, expert_ffn=0, shared_ffn=0,
        shared_experts=0, dense_layers=0, extra={}, variant=f"dense-twin={'total' if total else 'active'}",
    )  # fmt: skip


def tiny(shape: Shape) -> Shape:
    """A few megabytes with the same structure: for suites that touch every stage. Widths stay multiples of 256."""
    kv_heads = 4 if shape.kv_heads == shape.heads else 2
    attention = (1,) if shape.attention_layers else ()
    small = {
        "layers": TINY_LAYERS, "embedding": TINY_WIDTH, "heads": 4, "kv_heads": kv_heads, "head": 64,
        "ffn": TINY_FFN if shape.ffn else 0, "vocabulary": TINY_VOCABULARY, "context": min(shape.context, 4096),
        "experts": min(shape.experts, TINY_EXPERTS), "experts_used": min(shape.experts_used, TINY_USED),
        "expert_ffn": 256 if shape.experts else 0,
        "shared_ffn": 256 * max(1, shape.shared_experts) if shape.shared_ffn else 0,
        "value_head": min(shape.value_head, 64), "rope_head": min(shape.rope_head, 32),
        "kv_rank": min(shape.kv_rank, 256),
        "dense_layers": min(shape.dense_layers, 1), "attention_layers": attention,
    }  # fmt: skip
    scale = TINY_WIDTH**0.5 if shape.architecture in ("gemma2", "gemma3") else shape.embedding_scale
    return replace(shape, **small, embedding_scale=scale, variant="tiny")
