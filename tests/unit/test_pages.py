"""Touching: every page of a span is read, nothing outside of it."""

from __future__ import annotations

import ctypes
import mmap
import resource
import sys

import pytest

from harness.llamacpp.pages import PAGE_BYTES, Span, touch

PAGES = 300


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults, and asks Linux for small pages")
def test_every_page_is_read() -> None:
    with mmap.mmap(-1, PAGES * PAGE_BYTES) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        holder = ctypes.c_char.from_buffer(fresh)
        span = Span(ctypes.addressof(holder), len(fresh))
        before = faults()
        touch([span])
        first = faults() - before
        touch([span])
        del holder
        assert first >= PAGES > faults() - before - first


def test_nothing_to_touch_is_no_error() -> None:
    touch([])
