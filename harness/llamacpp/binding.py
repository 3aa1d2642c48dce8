"""Of llama-cpp-python the declarations of llama.cpp's C API alone.

The package's own `__init__` would also import its high-level API, and that imports numpy: a process that holds numpy
was seen to decode 0.5 to 1 % slower than llama-bench, one that does not hold it as fast (paired bursts on a two-core
x86 machine). It is also imported in 33 ms instead of 120.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "llama_cpp"


def _without_high_level_api() -> None:
    """Stand in for the package, so that importing its submodules does not run its `__init__`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


_without_high_level_api()
from llama_cpp import llama_cpp as low  # noqa: E402 - the stand-in must come first

__all__ = ["library_folder", "low"]


def library_folder() -> Path:
    """Where the package keeps its shared libraries."""
    return Path(low.__file__).parent / "lib"
