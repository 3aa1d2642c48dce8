"""Weights in huge pages, for every process that is measured.

Where the system leaves memory in pages of 4 KiB, each fresh process finds its weights laid out anew, and processes of
the same bytes differ by several per cent for as long as they live: more than what most comparisons look for. glibc asks
for huge pages where it is told to. Linux with another C library, and other systems, pass over this; how much memory
really came in huge pages is a figure of the record (`MemorySample.huge_page_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping

TUNABLES = "GLIBC_TUNABLES"
ADVISE = "glibc.malloc.hugetlb=1"  # madvise; takes nothing from the pool of reserved pages


def with_huge_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a measured process; a choice that the user has made already stays."""
    chosen = environ.get(TUNABLES, "")
    if "glibc.malloc.hugetlb" in chosen:
        return dict(environ)
    return {**environ, TUNABLES: f"{chosen}:{ADVISE}" if chosen else ADVISE}
