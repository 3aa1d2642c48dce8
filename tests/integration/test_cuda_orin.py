"""The flags of the L4T image against a real CUDA compiler: one file of ggml's kernels becomes code for Orin."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.study.environments import images
from harness.study.llama_bench_build import llama_cpp_source

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or next(map(str, Path("/usr/local").glob("cuda*/bin/nvcc")), "")
KERNELS = "topk-moe.cu"  # the selection of experts: what the study's claim C5 is about
# Stands in for cuBLAS's own where only the compiler is installed: the kernels of this file call none of it.
CUBLAS = """
#pragma once
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS };
enum cublasMath_t { CUBLAS_TF32_TENSOR_OP_MATH };
typedef struct cublasContext * cublasHandle_t;
#define CUBLAS_VER_MAJOR 13
const char * cublasGetStatusString(cublasStatus_t);
cublasStatus_t cublasCreate(cublasHandle_t *);
cublasStatus_t cublasDestroy(cublasHandle_t);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t);
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t);
"""


def orin() -> str:
    """The architecture that docker/images.toml names for the board."""
    found = re.search(r"-DCMAKE_CUDA_ARCHITECTURES=(\S+)", images.load(ROOT).images["l4t"].cmake_args)
    assert found is not None
    return found[1]


@pytest.mark.skipif(not NVCC, reason="no nvcc here: CUDA's compiler is not installed")
def test_a_kernel_of_ggml_compiles_for_orin(tmp_path: Path) -> None:
    assert orin() == "87"
    said: list[str] = []
    ggml = llama_cpp_source(ROOT, ROOT / ".cache" / "llama-source", said.append) / "ggml"
    includes = [ggml / "include", ggml / "src", ggml / "src" / "ggml-cuda"]
    if not any((folder / "include" / "cublas_v2.h").exists() for folder in Path("/usr/local").glob("cuda*")):
        (tmp_path / "cublas_v2.h").write_text(CUBLAS)
        includes.append(tmp_path)
    made = tmp_path / "kernels.cubin"
    command = [NVCC, "-cubin", "-std=c++17", f"-arch=sm_{orin()}", "--expt-relaxed-constexpr", "-use_fast_math"]
    folders = [f"-I{folder}" for folder in includes]
    done = subprocess.run(
        [*command, *folders, "-o", str(made), str(ggml / "src" / "ggml-cuda" / KERNELS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = made.read_bytes()
    assert content.startswith(b"\x7fELF")
    assert b"topk_moe_cuda" in content
    assert b"sm_87" in content
