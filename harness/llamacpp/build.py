"""With what llama.cpp was built: commit, features, compiler, accelerators, as the library itself tells."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from harness.llamacpp import native
from harness.llamacpp.binding import library_folder, low
from harness.pins import LLAMA_CPP_COMMITS


def describe() -> dict[str, str]:
    """Keys: llama_cpp_commit, llama_cpp_python, build_flags, compiler, accelerator."""
    version = metadata.version("llama-cpp-python")
    ggml = native.load()
    return {
        "llama_cpp_commit": LLAMA_CPP_COMMITS.get(version, f"unknown ({ggml.base.ggml_commit().decode()})"),
        "llama_cpp_python": version,
        "build_flags": f"ggml {ggml.base.ggml_version().decode()}; {low.llama_print_system_info().decode().strip()}",
        "compiler": _compiler(library_folder()),
        "accelerator": _accelerators(),
    }


def _accelerators() -> str:
    """Backends beside the CPU, by the names of their shared libraries; `none` on a plain CPU build."""
    folder = library_folder()
    names = {match[1] for path in folder.iterdir() if (match := re.match(r"libggml-(\w+)\.(?:so|dylib)", path.name))}
    return ",".join(sorted(names - {"base", "cpu"})) or "none"


def _compiler(folder: Path) -> str:
    """The compiler's own mark in the ELF comment section; macOS and stripped files have none."""
    library = folder / "libggml-cpu.so"
    if not library.exists():
        return "not told by the library"
    match = re.search(rb"GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+", library.read_bytes())
    return match[0].decode() if match else "not told by the library"
