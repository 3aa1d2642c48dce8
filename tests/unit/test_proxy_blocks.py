"""Random blocks: dequantized by the `gguf` package they have the scale asked for, and never a bad number."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.models.blocks import FLOAT_TYPES, LAYOUTS, Stream, float_bytes, pool

STD = 0.02
OCTAVES = 0.36
BLOCKS_LOOKED_AT = 3000
# Where ggml's block layouts keep their half-precision numbers, in bytes.
SCALES_AT = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}

# Byte for byte: another NumPy, platform or refactoring must not change what seed 1 gives.
GOLDEN = {
    "F32": "e2281676570659b2",
    "F16": "cd7323c0b246598d",
    "BF16": "be0387d06d9204ec",
    "Q4_0": "5e8eadf00b47044f",
    "Q5_0": "6e460bfdf6775abf",
    "Q4_1": "3e9c0d1aeefa0ae1",
    "Q5_1": "4c0a6f9d3d5c10cc",
    "Q8_0": "12d57c844c66ac26",
    "Q2_K": "a5f4d51db666decd",
    "Q3_K": "db56b1cd45a368bc",
    "Q4_K": "98ce34c548b149ca",
    "Q5_K": "cdc17a67e05cd2a7",
    "Q6_K": "446fed313b30118d",
}


def weights_of(type_name: str, std: float = STD) -> NDArray[Any]:
    blocks = pool(type_name, std, OCTAVES, seed=3)[:BLOCKS_LOOKED_AT]
    values: NDArray[Any] = dequantize(np.ascontiguousarray(blocks), GGMLQuantizationType[type_name])
    return values.astype(np.float64)


@pytest.mark.parametrize("type_name", [*FLOAT_TYPES, *LAYOUTS])
def test_weights_have_mean_zero_and_the_scale_asked_for(type_name: str) -> None:
    values = weights_of(type_name)
    assert np.isfinite(values).all()
    spread = values.std()
    # 3,000 scales that vary by a quarter; those of 5- and 6-bit types are cut below at the smallest normal number.
    assert spread == pytest.approx(STD, rel=0.05)
    assert abs(values.mean()) < 5 * spread / np.sqrt(values.size) + 0.01 * spread


@pytest.mark.parametrize("type_name", [*FLOAT_TYPES, *LAYOUTS])
def test_no_weight_is_a_denormal(type_name: str) -> None:
    sizes = np.abs(weights_of(type_name))
    smallest = np.finfo(np.float16).smallest_normal if type_name == "F16" else np.finfo(np.float32).smallest_normal
    assert sizes[sizes > 0].min() >= smallest


@pytest.mark.parametrize("type_name", list(LAYOUTS))
def test_scales_of_blocks_are_normal_half_precision_numbers(type_name: str) -> None:
    blocks = pool(type_name, STD, OCTAVES, seed=3)
    for offset in SCALES_AT[type_name]:
        scales = np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2")
        assert np.abs(scales).min() >= np.finfo(np.float16).smallest_normal
        assert np.abs(scales).max() < 1


@pytest.mark.parametrize("type_name", [*FLOAT_TYPES, *LAYOUTS])
def test_a_seed_determines_the_bytes(type_name: str) -> None:
    first = hashlib.sha256(pool(type_name, STD, OCTAVES, seed=1).tobytes()).hexdigest()
    assert first == hashlib.sha256(pool(type_name, STD, OCTAVES, seed=1).tobytes()).hexdigest()
    assert first != hashlib.sha256(pool(type_name, STD, OCTAVES, seed=2).tobytes()).hexdigest()
    assert first[:16] == GOLDEN[type_name]


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UsageError, match="IQ2_XS") as caught:
        pool("IQ2_XS", STD, OCTAVES, seed=1)
    assert "Q4_K" in caught.value.cure


def test_the_stream_is_about_standard_normal_and_labels_part_streams() -> None:
    values = Stream(1, "a").normal(200_000)
    assert abs(float(values.mean())) < 0.01
    assert float(values.std()) == pytest.approx(1.0, abs=0.01)
    assert float(np.abs(values).max()) < 3.5
    assert not np.array_equal(values[:100], Stream(1, "b").normal(100))


def test_tiny_halves_become_zero_and_bf16_keeps_the_upper_half() -> None:
    values = np.array([1e-6, 1.0, -2.5], dtype=np.float32)
    assert float_bytes(values, "F16").view("<f2").ravel().tolist() == [0.0, 1.0, -2.5]
    assert float_bytes(values, "BF16")[1].tolist() == [0x80, 0x3F]
