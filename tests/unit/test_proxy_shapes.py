"""Shapes and templates: their sums agree with the published models, and their variations vary one thing."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.errors import ConfigError, UsageError
from harness.models import registry
from harness.models.registry import Model, Registry
from harness.models.shapes import Shape, dense_twin, of, tiny, varied
from harness.models.templates import TEMPLATES, metadata, parameters_active, parameters_total, tensors

ROOT = Path(__file__).parents[2]
ROTATION_FACTORS = 64  # at most: Llama 3 files carry them as a tensor, no weight of the published model

# As the makers of the models state them, in billions.
PUBLISHED = {
    "olmoe-1b-7b": (6.92, 1.28),
    "llama-3.2-1b": (1.24, 1.24),
    "qwen2.5-1.5b": (1.54, 1.54),
    "gemma-2-2b": (2.61, 2.61),
    "granite-3.1-1b-a400m": (1.33, 0.43),
    "granite-3.1-3b-a800m": (3.30, 0.88),
    "qwen1.5-moe-a2.7b": (14.3, 2.7),
    "deepseek-v2-lite": (15.7, 2.66),
    "lfm2-8b-a1b": (8.34, 1.56),
    "qwen3-30b-a3b": (30.5, 3.35),
}


@pytest.fixture(scope="module")
def models() -> Registry:
    return registry.load(ROOT)


@pytest.fixture(scope="module")
def olmoe(models: Registry) -> Shape:
    return of(models.get("olmoe-1b-7b"))


def shaped(models: Registry) -> list[Model]:
    return [model for model in models.models.values() if model.shape is not None]


def test_every_shape_of_the_registry_sums_to_the_parameters_beside_it(models: Registry) -> None:
    assert set(PUBLISHED) <= {model.name for model in shaped(models)}
    for model in shaped(models):
        shape = of(model)
        assert 0 <= parameters_total(shape) - model.parameters_total <= ROTATION_FACTORS, model.name
        assert 0 <= parameters_active(shape) - model.parameters_active <= ROTATION_FACTORS, model.name


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_sums_agree_with_what_the_makers_state(models: Registry, name: str) -> None:
    shape = of(models.get(name))
    total, active = PUBLISHED[name]
    assert parameters_total(shape) / 1e9 == pytest.approx(total, rel=0.005)
    assert parameters_active(shape) / 1e9 == pytest.approx(active, rel=0.01)


def test_olmoe_as_the_quantizer_and_llama_cpp_name_it(olmoe: Shape) -> None:
    dims = {tensor.name: tensor.dims for tensor in tensors(olmoe)}
    assert dims["blk.15.ffn_down_exps.weight"] == (1024, 2048, 64)
    assert dims["blk.0.ffn_gate_inp.weight"] == (2048, 64)
    assert dims["output.weight"] == (2048, 50304)
    assert len(dims) == 3 + 16 * 12
    keys = metadata(olmoe)
    assert (keys["expert_count"], keys["expert_used_count"], keys["feed_forward_length"]) == (64, 8, 1024)


def test_layers_without_attention_have_no_kv_heads(models: Registry) -> None:
    shape = of(models.get("lfm2-8b-a1b"))
    heads = metadata(shape)["attention.head_count_kv"]
    assert isinstance(heads, tuple)
    assert [layer for layer, count in enumerate(heads) if count] == [2, 6, 10, 14, 18, 21]


def test_varied_experts_change_the_total_and_leave_the_active(olmoe: Shape) -> None:
    eight, many = varied(olmoe, experts=8), varied(olmoe, experts=128)
    router = 16 * 2048  # weights of the router an expert
    assert parameters_active(many) - parameters_active(eight) == router * 120
    assert parameters_total(many) > 14 * parameters_total(olmoe) // 8
    assert (eight.variant, many.variant) == ("experts=8", "experts=128")


def test_varied_use_changes_the_active_and_leaves_the_total(olmoe: Shape) -> None:
    one = varied(olmoe, used=1)
    assert parameters_total(one) == parameters_total(olmoe)
    assert parameters_active(olmoe) - parameters_active(one) == 16 * 7 * 3 * 2048 * 1024
    assert varied(olmoe, experts=64, used=8) == olmoe


def test_impossible_variations_are_refused(olmoe: Shape, models: Registry) -> None:
    with pytest.raises(UsageError, match="8 of 4 experts"):
        varied(olmoe, experts=4)
    with pytest.raises(UsageError, match="at least 1"):
        varied(olmoe, used=0)
    with pytest.raises(UsageError, match="dense"):
        varied(of(models.get("llama-3.2-1b")), experts=4)
    with pytest.raises(UsageError, match="dense"):
        dense_twin(of(models.get("llama-3.2-1b")), total=True)


def test_dense_twins_match_active_and_total_within_router_and_norms(olmoe: Shape) -> None:
    active, total = dense_twin(olmoe, total=False), dense_twin(olmoe, total=True)
    assert parameters_total(active) == pytest.approx(parameters_active(olmoe), rel=0.002)
    assert parameters_total(total) == pytest.approx(parameters_total(olmoe), rel=0.002)
    assert active.experts == 0
    assert {active.variant, total.variant} == {"dense-twin=active", "dense-twin=total"}


def test_tiny_shapes_keep_the_structure_at_a_few_megabytes(models: Registry) -> None:
    for model in shaped(models):
        shape = of(model)
        small = tiny(shape)
        assert parameters_total(small) < 8_000_000
        assert bool(small.experts) == bool(shape.experts)
        parts = {tensor.name.split(".", 2)[2] for tensor in tensors(shape) if tensor.name.startswith("blk.")}
        assert parts == {tensor.name.split(".", 2)[2] for tensor in tensors(small) if tensor.name.startswith("blk.")}
        assert small.embedding % 256 == small.ffn % 256 == small.expert_ffn % 256 == 0


def test_a_shape_that_contradicts_itself_names_the_entry(models: Registry) -> None:
    model = models.get("olmoe-1b-7b")
    assert model.shape is not None
    for change, words in (({"experts_used": 65}, "exceeds"), ({"layers": 0}, "layers"), ({"heads": 15}, "multiple")):
        broken = replace(model, shape={**model.shape, **change})
        with pytest.raises(ConfigError, match=words) as caught:
            of(broken)
        assert "models.olmoe-1b-7b.shape" in str(caught.value)
    with pytest.raises(ConfigError, match="missing"):
        of(replace(model, shape=None))


def test_an_unknown_architecture_lists_the_known_ones(olmoe: Shape) -> None:
    with pytest.raises(UsageError, match="nonesuch") as caught:
        tensors(replace(olmoe, architecture="nonesuch"))
    assert all(name in caught.value.cure for name in TEMPLATES)
