"""Contents of proxies: tiles fill tensors exactly, norms and routers have their scale, the skew is what was planned."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.models.contents import MOST_USED, Filler, Filling, Placed, role, skewed_row_scales, use_frequencies

EXPERTS = Placed(name="blk.0.ffn_up_exps.weight", dims=(256, 64, 64), type_name="Q4_K", size_bytes=64 * 64 * 144)
LARGE = Placed(name="blk.0.attn_q.weight", dims=(4096, 4096), type_name="Q6_K", size_bytes=65536 * 210)
ROUTER = Placed(name="blk.0.ffn_gate_inp.weight", dims=(256, 64), type_name="F32", size_bytes=256 * 64 * 4)


def content(tensor: Placed, filling: Filling) -> bytes:
    return b"".join(Filler(filling).pieces(tensor))


def router(skew: float, name: str = ROUTER.name) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    placed = Placed(name=name, dims=ROUTER.dims, type_name="F32", size_bytes=ROUTER.size_bytes)
    raw = content(placed, Filling(seed=1, router_skew=skew, experts_used=8))
    return np.frombuffer(raw, dtype="<f4").reshape(64, 256)


@pytest.mark.parametrize("tensor", [EXPERTS, LARGE, ROUTER])
def test_pieces_fill_the_tensor_exactly_and_a_seed_repeats_them(tensor: Placed) -> None:
    first = content(tensor, Filling(seed=1))
    assert len(first) == tensor.size_bytes
    assert first == content(tensor, Filling(seed=1))
    assert first != content(tensor, Filling(seed=2))


def test_tiles_start_at_varying_offsets() -> None:
    """A tensor larger than its pool must not repeat with one period: rows would be copies of each other."""
    raw = np.frombuffer(content(LARGE, Filling(seed=1)), dtype=np.uint8).reshape(-1, 210)
    piece = (1 << 20) // 210
    starts = [raw[index].tobytes() for index in range(0, len(raw), piece)]
    assert len(set(starts)) == len(starts)


def test_norms_are_around_one_and_the_last_one_has_both_signs() -> None:
    for name, signs in (("blk.3.ffn_norm.weight", {1.0}), ("output_norm.weight", {-1.0, 1.0})):
        tensor = Placed(name=name, dims=(2048,), type_name="F32", size_bytes=8192)
        values = np.frombuffer(content(tensor, Filling(seed=1)), dtype="<f4")
        assert np.abs(values).mean() == pytest.approx(1.0, abs=0.01)
        assert set(np.sign(values).tolist()) == signs


def test_an_embedding_makes_up_for_the_scale_of_the_graph() -> None:
    assert role("token_embd.weight", Filling(seed=1, embedding_scale=8.0)).std == 0.5
    tied = Filling(seed=1, embedding_scale=12.0, tied=True)
    assert role("token_embd.weight", tied).std < role("blk.0.ffn_down.weight", tied).std


def test_routers_are_alike_without_skew_and_differ_by_layer() -> None:
    spreads = router(0.0).std(axis=1)
    assert spreads.max() / spreads.min() < 1.3
    assert not np.array_equal(router(0.0), router(0.0, "blk.1.ffn_gate_inp.weight"))


def test_skewed_routers_favour_other_experts_in_each_layer() -> None:
    first, second = router(1.0).std(axis=1), router(1.0, "blk.1.ffn_gate_inp.weight").std(axis=1)
    assert first.max() / first.min() > 5
    assert np.argsort(first)[-4:].tolist() != np.argsort(second)[-4:].tolist()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_planned_frequencies_sum_to_the_experts_in_use(exponent: float) -> None:
    frequencies = use_frequencies(64, 8, exponent)
    assert frequencies.sum() == pytest.approx(8.0)
    assert frequencies.max() <= MOST_USED
    assert (np.diff(frequencies) <= 1e-12).all()


def test_row_scales_select_experts_as_planned() -> None:
    """Simulated: normal logits with these scales, the eight largest win. Independent of any network."""
    scales, planned = skewed_row_scales(64, 8, 0.5), use_frequencies(64, 8, 0.5)
    logits = np.random.default_rng(1).normal(size=(20_000, 64)) * scales
    chosen = np.argsort(logits, axis=1)[:, -8:]
    seen = np.bincount(chosen.ravel(), minlength=64) / len(logits)
    assert np.abs(seen - planned).max() < 0.03


def test_a_quantized_router_cannot_be_skewed() -> None:
    quantized = Placed(name=ROUTER.name, dims=ROUTER.dims, type_name="Q8_0", size_bytes=64 * 8 * 34)
    with pytest.raises(UsageError, match="cannot be skewed"):
        content(quantized, Filling(seed=1, router_skew=1.0, experts_used=8))
