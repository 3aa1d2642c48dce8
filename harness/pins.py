"""Which llama.cpp commit a version of the Python package vendors: the library knows only a short form, or none."""

from __future__ import annotations

LLAMA_CPP_COMMITS = {"0.3.36": "0c1e57098bba43ac29e6e3b677cdceebdd22334f"}
