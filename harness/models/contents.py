"""What stands in the tensors of a proxy: a scale for each role, so that the network stays finite and experts share.

The residual stream starts with the token's own embedding, and each block adds little to it. Tokens that
differ are therefore routed apart, and all experts are used about alike, as trained routers are balanced to do. Where
the output matrix is the embedding, the embedding is as small as other matrices, so that the blocks decide which token
comes next: else greedy decoding would swing between two tokens, as the product of embeddings is symmetric.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.models.blocks import FLOAT_TYPES, Bytes, Floats, Stream, float_bytes, pool
from harness.records import Struct

PIECE_BYTES = 1 << 20
WEIGHT_STD = 0.02
BIAS_STD = 0.02
SELECTION_BIAS_STD = 0.001  # added to probabilities when experts are chosen
NORM_STD = 0.05  # around 1
TAP_STD = 0.5
# Embeddings and feed-forward blocks tell tokens apart, attention averages over them: it must not drown the others.
EMBEDDING_SIZE = 4.0
DOWN_STD = 0.4
ATTENTION_NORM = 0.25
# Rows of tokens differ in size more than those of other matrices. With 0.6 a clone of Gemma-3-270M, most of which is
# its table of tokens, decoded 2.7 % slower than the real file, with 0.4 2.5 % faster (rounds of two processes each).
MATRIX_OCTAVES, TOKEN_OCTAVES = 0.36, 0.5
MOST_USED = 0.45  # a scaled row of zero mean is above any positive threshold less than half of the time


class Role(Struct, frozen=True):
    """Distribution of a tensor's values."""

    mean: float
    std: float
    octaves: float = MATRIX_OCTAVES  # how much the scales of quantized blocks vary


class Placed(Struct, frozen=True):
    """A tensor of the file to be written; dims in GGUF order, type by ggml's upper-case name."""

    name: str
    dims: tuple[int, ...]
    type_name: str
    size_bytes: int

    @property
    def is_router(self) -> bool:
        """The matrix whose products choose the experts."""
        return self.name.endswith("ffn_gate_inp.weight")

    @property
    def is_small(self) -> bool:
        """Vectors, routers and convolution taps: drawn by themselves."""
        return len(self.dims) == 1 or self.is_router or ".conv." in self.name


class Filling(Struct, frozen=True):
    """What determines the values: the seed, how the graph scales and reuses embeddings, and the skew of the router."""

    seed: int
    embedding_scale: float = 1.0
    tied: bool = False
    router_skew: float = 0.0  # exponent of a Zipf law over experts; 0: uniform
    experts_used: int = 0


# The first mark that a tensor's name holds decides.
FIXED_ROLES = (
    ("post_attention_norm.", Role(mean=ATTENTION_NORM, std=NORM_STD * ATTENTION_NORM)),
    ("_norm.", Role(mean=1.0, std=NORM_STD)),
    ("rope_f", Role(mean=1.0, std=NORM_STD)),  # factors of the rotation's frequencies
    ("exp_probs_b.", Role(mean=0.0, std=SELECTION_BIAS_STD)),
    (".bias", Role(mean=0.0, std=BIAS_STD)),
    (".conv.", Role(mean=0.0, std=TAP_STD)),
)


def role(name: str, filling: Filling) -> Role:
    """The distribution that fits a tensor's place in the network."""
    if name == "token_embd.weight":
        std = WEIGHT_STD if filling.tied else EMBEDDING_SIZE / filling.embedding_scale
        return Role(mean=0.0, std=std, octaves=TOKEN_OCTAVES)
    if name == "output.weight":
        return Role(mean=0.0, std=WEIGHT_STD, octaves=TOKEN_OCTAVES)
    if ".ffn_down" in name and name.endswith(".weight"):
        return Role(mean=0.0, std=DOWN_STD * (filling.embedding_scale if filling.tied else 1.0))
    return next((found for mark, found in FIXED_ROLES if mark in name), Role(mean=0.0, std=WEIGHT_STD))


class Filler:
    """Gives the bytes of tensors; pools of blocks are drawn once for each type and scale."""

    def __init__(self, filling: Filling) -> None:
        self._filling = filling
        self._pools: dict[tuple[str, float, float], Bytes] = {}

    def pieces(self, tensor: Placed) -> Iterator[memoryview]:
        """The tensor's bytes in pieces of about a megabyte; views of immutable memory.

        Raises:
            UsageError: a type whose layout is not known, or a skew asked of a quantized router.
        """
        if tensor.is_small and tensor.type_name in FLOAT_TYPES:
            yield self._small(tensor).data.cast("B")
            return
        if tensor.is_router and self._filling.router_skew:
            raise UsageError(f"a router of type {tensor.type_name} cannot be skewed", where=tensor.name)
        yield from self._tiled(tensor)

    def _tiled(self, tensor: Placed) -> Iterator[memoryview]:
        wanted = role(tensor.name, self._filling)
        key = (tensor.type_name, wanted.std, wanted.octaves)
        if key not in self._pools:
            self._pools[key] = pool(*key, self._filling.seed)
        blocks = self._pools[key]
        width = blocks.shape[1]
        flat = blocks.reshape(-1).data
        stream = Stream(self._filling.seed, f"offsets {tensor.name}")
        missing = tensor.size_bytes
        while missing:
            length = min(missing, PIECE_BYTES // width * width)
            start = stream.below(blocks.shape[0] - length // width) * width
            yield flat[start : start + length]
            missing -= length

    def _small(self, tensor: Placed) -> Bytes:
        wanted = role(tensor.name, self._filling)
        stream = Stream(self._filling.seed, f"values {tensor.name}")
        count = int(np.prod(tensor.dims))
        values: Floats = np.float32(wanted.mean) + np.float32(wanted.std) * stream.normal(count)
        if tensor.name in ("output_norm.weight", "token_embd_norm.weight"):
            values = values * _random_signs(stream, count)
        if tensor.is_router and self._filling.router_skew:
            values = (values.reshape(tensor.dims[::-1]) * self._row_scales(tensor, stream)[:, None]).reshape(-1)
        return np.ascontiguousarray(float_bytes(values, tensor.type_name).reshape(-1))

    def _row_scales(self, tensor: Placed, stream: Stream) -> Floats:
        scales = skewed_row_scales(tensor.dims[1], self._filling.experts_used, self._filling.router_skew)
        order = np.argsort(stream.bytes(tensor.dims[1], 8).view("<u8")[:, 0], kind="stable")
        return scales[order].astype(np.float32)


def _random_signs(stream: Stream, count: int) -> Floats:
    """Breaks the likeness of a tied output matrix to the embedding: else every token's successor would be itself."""
    return (stream.bytes(count, 1)[:, 0] & 1).astype(np.float32) * 2 - 1


def use_frequencies(experts: int, used: int, exponent: float) -> NDArray[np.float64]:
    """How often each expert shall be chosen: a Zipf law over ranks, capped, summing to `used`."""
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    target = min(used, MOST_USED * experts * 0.999)
    low, high = 0.0, experts * target / float(weights[-1])
    for _ in range(200):  # bisection: the capped sum grows with the factor
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(MOST_USED, middle * weights).sum() < target else (low, middle)
    return np.minimum(MOST_USED, high * weights)


def skewed_row_scales(experts: int, used: int, exponent: float) -> NDArray[np.float64]:
    """Factors of router rows that make selection follow a capped Zipf law without a bias tensor.

    Method: a logit is normal with a deviation proportional to its row's scale; the expert is chosen when it passes the
    common threshold, with probability Q(threshold / scale). The scales invert that, and their median is 1.
    """
    normal = NormalDist()
    scales = np.array([1.0 / normal.inv_cdf(1.0 - p) for p in use_frequencies(experts, used, exponent)])
    return np.asarray(scales / np.median(scales), dtype=np.float64)
