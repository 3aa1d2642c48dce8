from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.llama


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps of a process are Linux's")
def test_one_copy_of_every_native_library_is_mapped() -> None:
    """A second copy of ggml has empty tables: its thread pool computes nonsense, at full speed."""
    from harness.llamacpp import native

    native.load()
    mapped = set(re.findall(r"/\S+/(lib(?:ggml|llama)\S*\.so\S*)", Path("/proc/self/maps").read_text()))
    stems = [re.sub(r"\.so.*", "", name) for name in sorted(mapped)]
    assert "libllama" in stems
    assert len(stems) == len(set(stems)), mapped
