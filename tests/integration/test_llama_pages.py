"""Where llama.cpp laid the weights: found through its own graph, and readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.llamacpp.callbacks import WarmupProbe
from harness.llamacpp.engine import LlamaContext, LlamaModel
from harness.llamacpp.pages import touch
from harness.measure.llama import LlamaLoader
from harness.models import gguf_header, registry
from harness.models.proxy import write
from harness.models.shapes import of, tiny
from harness.records import Settings, Workload

pytestmark = pytest.mark.llama

REGISTRY = registry.load(Path(__file__).parents[2])
WORKLOAD = Workload(prompt_tokens=16, decode_tokens=8, depth_tokens=16)


@pytest.fixture(params=["olmoe-1b-7b", "llama-3.2-1b"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tiny(of(REGISTRY.get(request.param))), "Q4_K_M", out=tmp_path / "proxy.gguf").path


def matrix_names(path: Path) -> set[str]:
    with path.open("rb") as file:
        header = gguf_header.read_header(file, path.stat().st_size, path.name)
    return {tensor.name for tensor in header.tensors if len(tensor.shape) > 1}


@pytest.mark.parametrize("repack", [True, False])
def test_all_matrices_of_a_step_are_found_where_they_lie(path: Path, repack: bool) -> None:
    settings = Settings(threads=1, context_tokens=256, repack=repack)
    model = LlamaModel(path, settings)
    probe = WarmupProbe(model.ggml)
    context = LlamaContext(model, settings, WORKLOAD, callback=probe.callback)
    try:
        context.prefill(range(1, 17))
        probe.check()
        matrices = matrix_names(path)
        looked_up = {"token_embd.weight"} if "output.weight" in matrices else set()  # else it is multiplied by as well
        assert len(probe.matrices) == len(matrices - looked_up)
        assert sum(span.size_bytes for span in probe.matrices) > path.stat().st_size / 3
        touch(probe.matrices)
    finally:
        context.close()
        model.close()


def test_a_loader_touches_the_experts_that_it_measures(path: Path) -> None:
    loader = LlamaLoader(path, Settings(threads=1, context_tokens=256), WORKLOAD)
    coverage = loader.cover_experts()
    loader.open()
    assert loader.touch_weights() == (coverage.experts_total > 0)
    loader.close()
