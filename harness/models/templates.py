"""Tensors and metadata of each architecture, as llama.cpp expects them in a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

from harness.errors import UsageError
from harness.models.gguf_header import Value
from harness.models.shapes import Scalar, Shape
from harness.records import Struct

Metadata = dict[str, Value]  # complete keys, or keys without the architecture where said


class TensorShape(Struct, frozen=True):
    """Name and dimensions in GGUF order: the contiguous one, along which a matrix is multiplied, comes first."""

    name: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.dims)

    @property
    def stays_f32(self) -> bool:
        """Converters keep vectors, routers and convolution taps in F32, and the quantizer leaves those alone."""
        kept = self.name.endswith(("ffn_gate_inp.weight", "shortconv.conv.weight"))
        return len(self.dims) == 1 or kept

    @property
    def is_experts(self) -> bool:
        """All experts of a layer in one tensor, the last dimension counts them."""
        return "_exps." in self.name


def tensors(shape: Shape) -> tuple[TensorShape, ...]:
    """All tensors of a model of this shape.

    Raises:
        UsageError: no template for the architecture.
    """
    layer_tensors = _template(shape).layer
    found = [TensorShape(name="token_embd.weight", dims=(shape.embedding, shape.vocabulary))]
    for layer in range(shape.layers):
        found += [TensorShape(name=f"blk.{layer}.{part}", dims=dims) for part, dims in layer_tensors(shape, layer)]
    found.append(TensorShape(name=_template(shape).final_norm, dims=(shape.embedding,)))
    if not shape.tied:
        found.append(TensorShape(name="output.weight", dims=(shape.embedding, shape.vocabulary)))
    if shape.rope_factors:
        found.append(TensorShape(name="rope_freqs.weight", dims=((shape.rope_head or shape.head) // 2,)))
    return tuple(found)


def metadata(shape: Shape) -> Metadata:
    """Hyperparameters as GGUF keys without the architecture's prefix."""
    found: Metadata = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.embedding,
        "feed_forward_length": shape.ffn or shape.expert_ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": _kv_heads(shape),
        "attention.key_length": shape.head,
        "attention.value_length": shape.value_head or shape.head,
        "attention.layer_norm_rms_epsilon": shape.rms_epsilon,
        "rope.freq_base": shape.rope_base,
        "rope.dimension_count": shape.rope_head or shape.head,
        "vocab_size": shape.vocabulary,
    }
    return {**found, **_expert_metadata(shape), **_template(shape).metadata(shape), **shape.extra}


def parameters_total(shape: Shape) -> int:
    """All weights of the file, as `llama_model_n_params` counts them."""
    return sum(tensor.elements for tensor in tensors(shape))


def parameters_active(shape: Shape) -> int:
    """Total less the experts that a token is not routed to: the convention of the papers."""
    return sum(active_share(tensor, shape.experts, shape.experts_used) for tensor in tensors(shape))


def active_share(tensor: TensorShape, experts: int, used: int) -> int:
    """Elements of a tensor that count as active for one token."""
    return tensor.elements * used // experts if experts and tensor.is_experts else tensor.elements


Part = tuple[str, tuple[int, ...]]
Layer = Callable[[Shape, int], Iterator[Part]]


class _Template(Struct, frozen=True):
    layer: Layer
    metadata: Callable[[Shape], Mapping[str, Scalar]] = lambda _shape: {}
    final_norm: str = "output_norm.weight"


def _template(shape: Shape) -> _Template:
    try:
        return TEMPLATES[shape.architecture]
    except KeyError:
        known = ", ".join(TEMPLATES)
        raise UsageError(
            f"no template for the architecture {shape.architecture!r}",
            where=shape.name,
            cure=f"there are {known}; any GGUF file can be cloned",
        ) from None


def _kv_heads(shape: Shape) -> int | tuple[int, ...]:
    if shape.kv_rank:
        return 1  # latent attention caches one compressed head
    if not shape.attention_layers:
        return shape.kv_heads
    return tuple(shape.kv_heads if layer in shape.attention_layers else 0 for layer in range(shape.layers))


def _expert_metadata(shape: Shape) -> Metadata:
    if not shape.experts:
        return {}
    found: Metadata = {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
    if shape.ffn:
        found["expert_feed_forward_length"] = shape.expert_ffn
    if shape.dense_layers:
        found["leading_dense_block_count"] = shape.dense_layers
    return found


def _attention(shape: Shape, *, bias: bool = False) -> Iterator[Part]:
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    yield "attn_norm.weight", (shape.embedding,)
    for part, width in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
        yield f"{part}.weight", (shape.embedding, width)
        if bias:
            yield f"{part}.bias", (width,)
    yield "attn_output.weight", (queries, shape.embedding)


def _qk_norm(queries: int, keys: int) -> Iterator[Part]:
    yield "attn_q_norm.weight", (queries,)
    yield "attn_k_norm.weight", (keys,)


def _feed_forward(shape: Shape) -> Iterator[Part]:
    yield from _gated("", shape.embedding, shape.ffn)


def _gated(suffix: str, embedding: int, width: int, experts: tuple[int, ...] = ()) -> Iterator[Part]:
    yield f"ffn_gate{suffix}.weight", (embedding, width, *experts)
    yield f"ffn_up{suffix}.weight", (embedding, width, *experts)
    yield f"ffn_down{suffix}.weight", (width, embedding, *experts)


def _experts(shape: Shape) -> Iterator[Part]:
    yield "ffn_gate_inp.weight", (shape.embedding, shape.experts)
    yield from _gated("_exps", shape.embedding, shape.expert_ffn, (shape.experts,))


def _shared_expert(shape: Shape) -> Iterator[Part]:
    yield from _gated("_shexp", shape.embedding, shape.shared_ffn)


def _llama(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _feed_forward(shape)


def _qwen2(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape, bias=True)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _feed_forward(shape)


def _gemma2(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape)
    yield "post_attention_norm.weight", (shape.embedding,)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _feed_forward(shape)
    yield "post_ffw_norm.weight", (shape.embedding,)


def _gemma3(shape: Shape, layer: int) -> Iterator[Part]:
    yield from _gemma2(shape, layer)
    yield from _qk_norm(shape.head, shape.head)


def _olmoe(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape)
    yield from _qk_norm(shape.heads * shape.head, shape.kv_heads * shape.head)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _experts(shape)


def _granitemoe(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _experts(shape)


def _qwen2moe(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape, bias=True)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _experts(shape)
    yield "ffn_gate_inp_shexp.weight", (shape.embedding,)
    yield from _shared_expert(shape)


def _qwen3moe(shape: Shape, _layer: int) -> Iterator[Part]:
    yield from _attention(shape)
    yield from _qk_norm(shape.head, shape.head)
    yield "ffn_norm.weight", (shape.embedding,)
    yield from _experts(shape)


def _deepseek2(shape: Shape, layer: int) -> Iterator[Part]:
    """Multi-head latent attention, as converters write it today: the key and value projections split by head."""
    values = shape.value_head or shape.head
    unrotated = shape.head - shape.rope_head
    yield "attn_norm.weight", (shape.embedding,)
    yield "attn_q.weight", (shape.embedding, shape.heads * shape.head)
    yield "attn_kv_a_mqa.weight", (shape.embedding, shape.kv_rank + shape.rope_head)
    yield "attn_kv_a_norm.weight", (shape.kv_rank,)
    yield "attn_k_b.weight", (unrotated, shape.kv_rank, shape.heads)
    yield "attn_v_b.weight", (shape.kv_rank, values, shape.heads)
    yield "attn_output.weight", (shape.heads * values, shape.embedding)
    yield "ffn_norm.weight", (shape.embedding,)
    if layer < shape.dense_layers:
        yield from _feed_forward(shape)
    else:
        yield from _experts(shape)
        yield from _shared_expert(shape)


def _deepseek2_metadata(shape: Shape) -> Mapping[str, Scalar]:
    return {
        "attention.key_length": shape.kv_rank + shape.rope_head,
        "attention.value_length": shape.kv_rank,
        "attention.key_length_mla": shape.head,
        "attention.value_length_mla": shape.value_head or shape.head,
        "attention.q_lora_rank": 0,  # queries are not compressed; llama.cpp asks unless the depth is V2-Lite's
        "attention.kv_lora_rank": shape.kv_rank,
        "expert_shared_count": shape.shared_experts,
    }


def _lfm2moe(shape: Shape, layer: int) -> Iterator[Part]:
    if layer in shape.attention_layers:
        yield from _attention(shape)
        yield from _qk_norm(shape.head, shape.head)
    else:
        yield "attn_norm.weight", (shape.embedding,)
        yield "shortconv.conv.weight", (shape.convolution, shape.embedding)
        yield "shortconv.in_proj.weight", (shape.embedding, 3 * shape.embedding)
        yield "shortconv.out_proj.weight", (shape.embedding, shape.embedding)
    yield "ffn_norm.weight", (shape.embedding,)
    if layer < shape.dense_layers:
        yield from _feed_forward(shape)
    else:
        yield from _experts(shape)
        yield "exp_probs_b.bias", (shape.experts,)


def _lfm2moe_metadata(shape: Shape) -> Mapping[str, Scalar]:
    return {"shortconv.l_cache": shape.convolution}


TEMPLATES: Mapping[str, _Template] = {
    "olmoe": _Template(layer=_olmoe),
    "llama": _Template(layer=_llama),
    "qwen2": _Template(layer=_qwen2),
    "gemma2": _Template(layer=_gemma2),
    "gemma3": _Template(layer=_gemma3),
    "granitemoe": _Template(layer=_granitemoe),
    "qwen2moe": _Template(
        layer=_qwen2moe, metadata=lambda shape: {"expert_shared_feed_forward_length": shape.shared_ffn}
    ),
    "qwen3moe": _Template(layer=_qwen3moe),
    "deepseek2": _Template(layer=_deepseek2, metadata=_deepseek2_metadata),
    "lfm2moe": _Template(layer=_lfm2moe, metadata=_lfm2moe_metadata, final_norm="token_embd_norm.weight"),
}
