"""Proxies in stock llama.cpp: types as its quantizer really gives them, weights that load, logits that are finite."""

from __future__ import annotations

import ctypes
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.errors import EnvironmentLacking, UsageError
from harness.llamacpp.callbacks import RoutingProbe
from harness.llamacpp.engine import LlamaContext, LlamaModel
from harness.models import registry
from harness.models.check import GgufFile, check
from harness.models.clone import clone
from harness.models.contents import use_frequencies
from harness.models.proxy import ensure, write
from harness.models.proxy_layout import plan, write_sparse
from harness.models.shapes import Shape, dense_twin, of, tiny, varied
from harness.records import Settings, Workload

pytestmark = pytest.mark.llama

ROOT = Path(__file__).parents[2]
REGISTRY = registry.load(ROOT)
SHAPED = [name for name, model in REGISTRY.models.items() if model.shape is not None]
STUDY = ["olmoe-1b-7b", "llama-3.2-1b", "qwen2.5-1.5b", "gemma-2-2b"]
FILE_TYPES = ["Q4_K_M", "Q4_0", "Q8_0", "F16"]
SETTINGS = Settings(threads=1, context_tokens=1024, repack=False)
WORKLOAD = Workload(prompt_tokens=16, decode_tokens=8)

# Q4_K_M without vocabulary, as a prototype wrote them; metadata beyond what llama.cpp needs may differ.
FULL_SIZES_BYTES = {
    "olmoe-1b-7b": 4_211_743_360,
    "llama-3.2-1b": 799_872_096,
    "qwen2.5-1.5b": 980_117_472,
    "gemma-2-2b": 1_702_554_240,
}


def small(name: str) -> Shape:
    return tiny(of(REGISTRY.get(name)))


def table(file: GgufFile) -> dict[str, tuple[tuple[int, ...], str]]:
    return {tensor.name: (tensor.shape, tensor.type_name) for tensor in file.tensors}


def really_quantized(source: Path, file_type: str, out: Path) -> GgufFile:
    """llama.cpp's quantizer at work, not dry: what it would make of an F16 file."""
    from llama_cpp import llama_cpp as low

    params = low.llama_model_quantize_default_params()
    params.ftype = getattr(low, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.nthread = 1
    assert low.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return check(out)


@contextmanager
def context_of(path: Path, probe: RoutingProbe | None = None) -> Iterator[LlamaContext]:
    model = LlamaModel(path, SETTINGS)
    context = LlamaContext(model, SETTINGS, WORKLOAD, callback=probe.callback if probe else None)
    try:
        yield context
    finally:
        context.close()
        model.close()


def decoded(path: Path) -> int:
    """Parameters as llama.cpp counts them, after eight greedy tokens whose logits were finite each time."""
    with context_of(path) as context:
        draw = random.Random(1)
        context.prefill([draw.randrange(context.model.vocabulary_size) for _ in range(16)])
        for _ in range(8):
            assert context.logits_finite()
            context.place([context.argmax()])
            context.step()
        assert context.logits_finite()
        return context.model.parameters


@pytest.mark.parametrize("file_type", FILE_TYPES)
@pytest.mark.parametrize("name", STUDY)
def test_types_are_those_that_the_quantizer_really_gives(name: str, file_type: str, tmp_path: Path) -> None:
    half = write(small(name), "F16", out=tmp_path / "f16.gguf")
    made = write(small(name), file_type, out=tmp_path / "proxy.gguf")
    expected = really_quantized(half.path, file_type, tmp_path / "quantized.gguf")
    assert table(check(made.path)) == table(expected)
    assert made.file_type == file_type


@pytest.mark.parametrize("name", SHAPED)
def test_every_family_loads_counts_and_decodes(name: str, tmp_path: Path) -> None:
    made = write(small(name), "Q4_K_M", out=tmp_path / "proxy.gguf")
    assert decoded(made.path) == made.parameters_total


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_file_type_decodes(file_type: str, tmp_path: Path) -> None:
    for name in STUDY:
        decoded(write(small(name), file_type, out=tmp_path / "proxy.gguf").path)


@pytest.mark.parametrize("name", STUDY)
def test_full_size_as_planned(name: str, tmp_path: Path) -> None:
    """The whole layout without its data: the file's length is exact, and a few kilobytes on disk."""
    path = tmp_path / "sparse.gguf"
    write_sparse(plan(of(REGISTRY.get(name)), "Q4_K_M"), path)
    assert abs(path.stat().st_size - FULL_SIZES_BYTES[name]) <= 512


def test_olmoe_has_6_92_billion_parameters_in_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    write_sparse(plan(of(REGISTRY.get("olmoe-1b-7b")), "Q4_K_M"), path)
    model = LlamaModel(path, SETTINGS)
    try:
        assert model.parameters == 6_919_161_856
        assert model.expert_count() == 64
    finally:
        model.close()


def test_varied_and_dense_members_of_the_family_decode(tmp_path: Path) -> None:
    shape = small("olmoe-1b-7b")
    for member in (varied(shape, experts=32), varied(shape, used=1), dense_twin(shape, total=True)):
        made = write(member, "Q4_K_M", out=tmp_path / "proxy.gguf")
        assert decoded(made.path) == made.parameters_total


def test_a_clone_of_a_proxy_decodes(tmp_path: Path) -> None:
    source = write(small("gemma-2-2b"), "Q4_K_M", out=tmp_path / "proxy.gguf")
    made = clone(source.path, out=tmp_path / "clone.gguf")
    assert table(check(made.path)) == table(check(source.path))
    assert decoded(made.path) == source.parameters_total


def uses(path: Path, tokens: int) -> list[float]:
    """How often each expert of the first layer is chosen for random tokens, most used first."""
    from harness.llamacpp import native

    probe = RoutingProbe(native.load())
    with context_of(path, probe) as context:
        draw = random.Random(1)
        context.prefill([draw.randrange(context.model.vocabulary_size) for _ in range(tokens)])
        probe.check()
        count = Counter(expert for row in probe.selected[0] for expert in row)
    return sorted((count[expert] / tokens for expert in range(64)), reverse=True)


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_routing_is_uniform_or_as_skewed_as_planned(skew: float, tmp_path: Path) -> None:
    shape = replace(small("olmoe-1b-7b"), experts=64, experts_used=8)
    made = write(shape, "Q4_K_M", out=tmp_path / "proxy.gguf", router_skew=skew)
    seen, planned = uses(made.path, 1000), use_frequencies(64, 8, skew)
    # Sorting 64 counts of 1,000 tokens lifts the first by some 2.5 deviations of 0.01 and lowers the last alike.
    assert all(abs(one - other) < 0.08 for one, other in zip(seen, planned, strict=True))


def test_ensure_reuses_a_sound_file_and_writes_a_changed_one_anew(tmp_path: Path) -> None:
    shape = small("qwen2.5-1.5b")
    first = ensure(shape, "Q4_0", cache_dir=tmp_path)
    inode = first.path.stat().st_ino
    again = ensure(shape, "Q4_0", cache_dir=tmp_path)
    assert again == first
    assert again.path.stat().st_ino == inode
    with first.path.open("r+b") as stream:
        stream.truncate(first.size_bytes - 32)
    assert ensure(shape, "Q4_0", cache_dir=tmp_path) == first
    other = ensure(shape, "Q4_0", seed=2, cache_dir=tmp_path)
    assert other.path != first.path
    assert other.sha256 != first.sha256


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Q9_Z"):
        write(small("olmoe-1b-7b"), "Q9_Z", out=tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="no router to skew"):
        write(small("llama-3.2-1b"), "Q4_0", out=tmp_path / "a.gguf", router_skew=1.0)
    with pytest.raises(UsageError, match="negative"):
        write(small("olmoe-1b-7b"), "Q4_0", out=tmp_path / "a.gguf", router_skew=-1.0)
    text_for_number = replace(small("llama-3.2-1b"), extra={"attention.head_count": "many"})
    with pytest.raises(UsageError, match="refused"):
        write(text_for_number, "Q4_0", out=tmp_path / "a.gguf")
    too_deep = replace(small("llama-3.2-1b"), extra={"block_count": 9999})
    with pytest.raises(EnvironmentLacking, match="GGML_ASSERT"):  # native code aborts: its own process only
        write(too_deep, "Q4_0", out=tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []
