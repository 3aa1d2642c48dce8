"""Random blocks of every quantization type in use: finite, of a sane scale, without denormals, equal on every platform.

Method: the layouts of ggml's block types. Quants and the small scales within a block are random bytes, the block's own
scale is set so that dequantized weights have mean 0 and the standard deviation that was asked for. Numbers come from
PCG64's raw stream, which NumPy promises to keep, and sums of integers stand in for a normal distribution, so that no
library's rounding can change a byte.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FLOAT_TYPES = ("F32", "F16", "BF16")
POOL_BYTES = 4 << 20
UNIFORM_SUM_STD = (4 * (65536**2 - 1) / 12) ** 0.5  # of four 16-bit integers
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}

SMALLEST_SCALE = 2.0**-14  # half precision below it is denormal
# The scales within a block of K-quants are drawn from small whole numbers, which leaves the block's own scale large.
INNER_RMS = float(np.sqrt(np.mean(np.arange(8, 16) ** 2)))
INNER_RMS_6 = float(np.sqrt(np.mean(np.arange(4, 8) ** 2)))
SIGNED_6_BIT_RMS = float(np.sqrt(np.mean(np.arange(-32, 32) ** 2)))


class Stream:
    """Random numbers for one purpose: a seed and a label determine them all."""

    def __init__(self, seed: int, label: str) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, crc32(label.encode())]))

    def bytes(self, rows: int, width: int) -> Bytes:
        """Uniform bytes, rows x width."""
        words = self._bits.random_raw(-(-rows * width // 8))
        return np.asarray(words, dtype="<u8").view(np.uint8)[: rows * width].reshape(rows, width)

    def normal(self, count: int) -> Floats:
        """About standard normal, within +-3.5: the sum of four uniform integers."""
        words = self.bytes(count, 8).view("<u2").astype(np.int64)
        centred: Floats = ((words.sum(axis=1) - 2 * 65535) / UNIFORM_SUM_STD).astype(np.float32)
        return centred

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        return int(self._bits.random_raw() % limit)


def pool(type_name: str, std: float, octaves: float, seed: int) -> Bytes:
    """Some megabytes of blocks of a type, blocks x bytes; tensors are tiled from it.

    Args:
        type_name: ggml's name, upper case: Q4_K, Q8_0, F16, ...
        std: standard deviation of the dequantized weights.
        octaves: standard deviation of the logarithm of block scales; real tensors have 0.3 to 1.1.
        seed: the same seed, the same bytes.

    Raises:
        UsageError: the layout of the type is not known here.
    """
    stream = Stream(seed, f"pool {type_name}")
    if type_name in FLOAT_TYPES:
        return float_bytes(stream.normal(POOL_BYTES // WIDTHS[type_name]) * np.float32(std), type_name)
    try:
        size, layout = LAYOUTS[type_name]
    except KeyError:
        known = ", ".join((*FLOAT_TYPES, *LAYOUTS))
        raise UsageError(f"cannot make random blocks of type {type_name}", cure=f"choose among {known}") from None
    return np.ascontiguousarray(layout(stream, POOL_BYTES // size, std, octaves))


def float_bytes(values: Floats, type_name: str) -> Bytes:
    """Values as F32, F16 or BF16, one row a value."""
    if type_name == "F32":
        return values.astype("<f4").view(np.uint8).reshape(-1, 4)
    if type_name == "F16":
        halves = values.astype("<f2")
        halves[np.abs(halves) < np.finfo(np.float16).smallest_normal] = 0
        return halves.view(np.uint8).reshape(-1, 2)
    return (values.astype("<f4").view("<u4") >> np.uint32(16)).astype("<u2").view(np.uint8).reshape(-1, 2)


def _half(values: Floats) -> Bytes:
    """Half-precision numbers, one a row."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _scales(stream: Stream, rows: int, typical: float, octaves: float) -> Floats:
    """Block scales that vary as those of real weights do: log-normal, never a denormal.

    On x86, ggml converts them by a table of 256 KiB, so their spread decides how much of the first cache the table
    takes. With one scale in all blocks, a proxy of 32-weight blocks runs a fifth faster than the model that it stands
    for (seen with SmolLM2-135M); scales taken from the real file close the gap, whatever the quants are.
    """
    factors = np.exp2(octaves * stream.normal(rows).astype(np.float64))
    scales = (
        typical / np.exp((octaves * np.log(2)) ** 2) * factors
    )  # the root mean square of the factors is divided out
    kept: Floats = np.maximum(scales, SMALLEST_SCALE).astype(np.float32)
    return kept


def _signed(stream: Stream, values: Floats) -> Floats:
    """Random signs: types without a minimum have quants that are not quite centred."""
    return values * ((stream.bytes(len(values), 1)[:, 0] & 1).astype(np.float32) * 2 - 1)


def _spread(levels: int) -> float:
    """Standard deviation of whole numbers uniform over that many levels."""
    return float(((levels**2 - 1) / 12) ** 0.5)


def _plain(levels: int, quant_bytes: int) -> Callable[[Stream, int, float, float], Bytes]:
    """Q4_0, Q5_0: scale, quants."""

    def layout(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
        scale = _scales(stream, rows, std / (_spread(levels) ** 2 + 0.25) ** 0.5, octaves)  # quants are centred on -0.5
        return np.hstack([_half(_signed(stream, scale)), stream.bytes(rows, quant_bytes)])

    return layout


def _with_minimum(levels: int, quant_bytes: int) -> Callable[[Stream, int, float, float], Bytes]:
    """Q4_1, Q5_1: scale, minimum, quants."""

    def layout(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
        scale = _scales(stream, rows, std / _spread(levels), octaves)
        low = scale * np.float32(-(levels - 1) / 2)
        return np.hstack([_half(scale), _half(low), stream.bytes(rows, quant_bytes)])

    return layout


def _q8_0(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
    scale = _scales(stream, rows, std / _spread(255), octaves)
    quants = stream.bytes(rows, 32)
    quants[quants == 128] = 127  # -128 has no counterpart, and the quantizer never makes it
    return np.hstack([_half(scale), quants])


def _packed_scales(stream: Stream, rows: int) -> Bytes:
    """Eight 6-bit scales and eight minima equal to them, in the 12 bytes of Q4_K and Q5_K."""
    scales = (stream.bytes(rows, 8) & 7) + 8
    return np.hstack([scales[:, :4], scales[:, :4], scales[:, 4:] * 17])


def _k_with_minimum(levels: int, quant_bytes: int) -> Callable[[Stream, int, float, float], Bytes]:
    """Q4_K, Q5_K: scale, scale of minima, packed 6-bit scales, quants."""

    def layout(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
        scale = _scales(stream, rows, std / (INNER_RMS * _spread(levels)), octaves)
        minimum = scale * np.float32((levels - 1) / 2)
        head = [_half(scale), _half(minimum), _packed_scales(stream, rows)]
        return np.hstack([*head, stream.bytes(rows, quant_bytes)])

    return layout


def _q2_k(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
    scale = _scales(stream, rows, std / (INNER_RMS * _spread(4)), octaves)
    inner = ((stream.bytes(rows, 16) & 7) + 8) * 17  # the minimum of a group equals its scale
    return np.hstack([inner, stream.bytes(rows, 64), _half(scale), _half(scale * np.float32(1.5))])


def _q3_k(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
    scale = _scales(stream, rows, std / (SIGNED_6_BIT_RMS * (_spread(8) ** 2 + 0.25) ** 0.5), octaves)
    return np.hstack([stream.bytes(rows, 96), stream.bytes(rows, 12), _half(scale)])


def _q6_k(stream: Stream, rows: int, std: float, octaves: float) -> Bytes:
    scale = _scales(stream, rows, std / (INNER_RMS_6 * (_spread(64) ** 2 + 0.25) ** 0.5), octaves)
    draws = stream.bytes(rows, 16)
    magnitudes = ((draws & 3) + 4).astype(np.int8)
    inner = np.where(draws & 8, magnitudes, -magnitudes).astype(np.int8).view(np.uint8)
    return np.hstack([stream.bytes(rows, 192), inner, _half(scale)])


# type -> bytes of a block, and how a block is laid out
LAYOUTS: dict[str, tuple[int, Callable[[Stream, int, float, float], Bytes]]] = {
    "Q4_0": (18, _plain(16, 16)),
    "Q5_0": (22, _plain(32, 20)),
    "Q4_1": (20, _with_minimum(16, 16)),
    "Q5_1": (24, _with_minimum(32, 20)),
    "Q8_0": (34, _q8_0),
    "Q2_K": (84, _q2_k),
    "Q3_K": (110, _q3_k),
    "Q4_K": (144, _k_with_minimum(16, 128)),
    "Q5_K": (176, _k_with_minimum(32, 160)),
    "Q6_K": (210, _q6_k),
}
