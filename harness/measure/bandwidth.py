"""Read bandwidth of the machine's memory: all threads sum their parts of a working set far over the last cache.

Method: STREAM's rule of a working set of at least four times the last cache (McCalpin 1995), reads only, as decoding
reads weights. Each thread sums 64-bit words with numpy, which leaves the interpreter's lock meanwhile; one such thread
draws as much as libc's memchr or a BLAS dot product do. It is what the CPU reads: a GPU may read its memory faster.
"""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from harness import hostfiles
from harness.clock import now_ns
from harness.errors import EnvironmentLacking
from harness.measure.telemetry.counters import counters, spent
from harness.protocol import Task, Turn
from harness.records import BandwidthSample, Burst, Measured, Taint
from harness.terms import BurstKind
from harness.units import BYTES_PER_KIB, NS_PER_S, human_bytes

WORKING_SET_BYTES = 1 << 30
CACHE_MULTIPLE = 8
LEAST_MULTIPLE = 4
AVAILABLE_SHARE = 0.5
WORD_BYTES = 8
WARM_PASSES = 3
BURST_SECONDS = 0.7
FILL = 0x0101010101010101  # pages that were never written all map to one page of zeros


class BandwidthWork:
    """Passes over memory; no weights are loaded. Each turn is a burst of passes, whatever its kind."""

    def __init__(self, task: Task, root: Path = Path("/"), wanted_bytes: int = WORKING_SET_BYTES) -> None:
        self._spec = task.spec
        self._threads = task.spec.settings.threads
        self._cache_bytes = last_cache_bytes(root)
        self._working_set_bytes = working_set_bytes(wanted_bytes, self._cache_bytes, available_bytes(root))
        self._words = np.empty(0, dtype=np.uint64)
        self._pool = ThreadPoolExecutor(self._threads)
        self._samples: list[BandwidthSample] = []
        self._bursts: list[Burst] = []

    def prepare(self) -> int:
        """Write the working set once, read it a few times; nanoseconds of a pass."""
        self._words = np.full(self._working_set_bytes // WORD_BYTES, FILL, dtype=np.uint64)
        return round(statistics.median(self._pass_ns() for _ in range(WARM_PASSES)))

    def _pass_ns(self) -> int:
        parts = np.array_split(self._words, self._threads)
        start_ns = now_ns()
        list(self._pool.map(np.add.reduce, parts))
        return now_ns() - start_ns

    def turn(self, turn: Turn) -> Burst:
        """Passes for the workload's burst time."""
        wanted_ns = (self._spec.workload.decode_seconds or BURST_SECONDS) * NS_PER_S
        before, start_ns = counters(), now_ns()
        passes_ns = [self._pass_ns()]
        while now_ns() - start_ns < wanted_ns:
            passes_ns.append(self._pass_ns())
        end_ns = now_ns()
        used = spent(before, counters())
        self._samples.extend(self._sample(turn.round, pass_ns) for pass_ns in passes_ns)
        burst = Burst(
            kind=BurstKind.READ,
            round=turn.round,
            position=turn.position,
            start_ns=start_ns,
            end_ns=end_ns,
            tokens=0,
            engine_ns=sum(passes_ns),
            cpu_ns=used.cpu_ns,
            major_faults=used.major_faults,
            minor_faults=used.minor_faults,
            voluntary_switches=used.voluntary_switches,
            involuntary_switches=used.involuntary_switches,
            foreign_cpu_ns=used.foreign_cpu_ns,
            steal_ns=used.steal_ns,
        )
        self._bursts.append(burst)
        return burst

    def _sample(self, round_number: int, pass_ns: int) -> BandwidthSample:
        return BandwidthSample(
            round=round_number,
            threads=self._threads,
            working_set_bytes=self._working_set_bytes,
            last_cache_bytes=self._cache_bytes,
            read_bytes=self._words.nbytes,
            duration_ns=pass_ns,
        )

    def finish(self) -> tuple[Measured, tuple[Taint, ...]]:
        """All passes."""
        self._pool.shutdown()
        info = {"method": "numpy sums of 64-bit words, one slice a thread, anonymous memory"}
        measured = Measured(
            load_ns=0,
            warmup=None,
            bursts=tuple(self._bursts),
            memory=None,
            bandwidth=tuple(self._samples),
            engine_info=info,
        )
        return measured, ()


def working_set_bytes(wanted_bytes: int, cache_bytes: int | None, free_bytes: int) -> int:
    """What is wanted, but at least a multiple of the last cache, within half of what is free.

    Raises:
        EnvironmentLacking: not even four times the cache fit.
    """
    size = min(max(wanted_bytes, CACHE_MULTIPLE * (cache_bytes or 0)), int(AVAILABLE_SHARE * free_bytes))
    if size < LEAST_MULTIPLE * (cache_bytes or 0) or size < WORD_BYTES:
        raise EnvironmentLacking(
            f"a working set of {human_bytes(size)} does not exceed the last cache of {human_bytes(cache_bytes or 0)}",
            where="memory bandwidth",
            cure="free memory, or raise the limit",
        )
    return size


def available_bytes(root: Path) -> int:
    """What may still be allocated: free memory, or less under a limit."""
    free: int = psutil.virtual_memory().available
    ceiling = hostfiles.memory_ceiling_bytes(root)
    return free if ceiling is None else min(free, ceiling)


def last_cache_bytes(root: Path) -> int | None:
    """All caches of the highest level together, as sysfs tells; None elsewhere."""
    found: dict[tuple[int, str], int] = {}
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*")):
        level, size = hostfiles.read_int(folder / "level"), hostfiles.read_text(folder / "size")
        if level is not None and size and size.endswith("K") and size[:-1].isdigit():
            shared = hostfiles.read_text(folder / "shared_cpu_list") or folder.parts[-3]
            found[level, shared] = int(size[:-1]) * BYTES_PER_KIB
    if not found:
        return None
    highest = max(level for level, _ in found)
    return sum(size for (level, _), size in found.items() if level == highest)
