"""All bursts of a dataset as columns: one row a burst, and the counted token times behind it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.views import BurstView
from harness.terms import BurstKind

KINDS = tuple(BurstKind)
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
UNKNOWN = -1  # a quantity that the platform does not tell
COLUMNS = (
    "run",
    "kind",
    "round",
    "position",
    "start_ns",
    "window_ns",
    "engine_ns",
    "sampling_ns",
    "samplings",
    "harness_cpu_ns",
    "counted_tokens",
    "counted_ns",
    "major_faults",
    "involuntary_switches",
    "foreign_cpu_ns",
    "steal_ns",
    "waited_ns",
    "waited_cpu_ns",
    "first_token",
    "token_times",
)


def _told(value: int | None) -> int:
    return UNKNOWN if value is None else value


class BurstColumns:
    """Grows while lines are read; `frame` gives the finished table."""

    def __init__(self) -> None:
        self._rows = array("q")  # one after another, `COLUMNS` each
        self._token_ns = array("I")

    def add(self, run: int, burst: BurstView, settle_tokens: int) -> None:
        """One burst of run number `run`; of a decode burst the first `settle_tokens` are not counted."""
        counted = burst.token_ns[settle_tokens:] if burst.token_ns else []
        row = [
            run,
            KIND_CODES[burst.kind],
            burst.round,
            burst.position,
            burst.start_ns,
            burst.end_ns - burst.start_ns,
            burst.engine_ns,
            burst.sampling_ns,
            burst.tokens if burst.samplings is None else burst.samplings,
            _told(burst.harness_cpu_ns),
            len(counted) if burst.token_ns else burst.tokens,
            sum(counted) if burst.token_ns else burst.engine_ns,
            burst.major_faults,
            burst.involuntary_switches,
            *map(_told, (burst.foreign_cpu_ns, burst.steal_ns, burst.waited_ns, burst.waited_cpu_ns)),
            len(self._token_ns),
            len(counted),
        ]
        self._rows.extend(row)
        self._extend(counted)

    def _extend(self, token_ns: Sequence[int]) -> None:
        """Token times take four bytes each until one is longer than 4.29 s."""
        length = len(self._token_ns)
        try:
            self._token_ns.extend(token_ns)
        except OverflowError:
            self._token_ns = array("Q", self._token_ns[:length])
            self._token_ns.extend(token_ns)

    def finish(self, places: Sequence[int]) -> Bursts:
        """The bursts of the runs at `places`, renumbered in that order; others are dropped."""
        values = np.array(self._rows, dtype=np.int64).reshape(-1, len(COLUMNS))
        frame = pd.DataFrame(values, columns=list(COLUMNS), copy=False)
        final = np.full(max(places, default=-1) + 2, UNKNOWN, dtype=np.int64)
        final[np.array(places, dtype=np.int64)] = np.arange(len(places))
        frame["run"] = final[np.minimum(frame["run"].to_numpy(), final.size - 1)]
        frame = frame[frame["run"] != UNKNOWN].sort_values("run", kind="stable", ignore_index=True)
        return Bursts(frame, np.asarray(self._token_ns, dtype=self._token_ns.typecode))


@dataclass(frozen=True, slots=True, eq=False)
class Bursts:
    """One row a burst (columns: `COLUMNS`), and the counted token times of all of them."""

    frame: pd.DataFrame
    token_ns: NDArray[np.unsignedinteger]

    def of(self, runs: Sequence[int], kind: BurstKind) -> pd.DataFrame:
        """Bursts of one kind of the given runs, in their order."""
        chosen = self.every(runs)
        return chosen[chosen["kind"] == KIND_CODES[kind]]

    def every(self, runs: Sequence[int]) -> pd.DataFrame:
        """All bursts of the given runs, in their order."""
        rows = self.frame
        starts = np.searchsorted(rows["run"].to_numpy(), runs, side="left")
        ends = np.searchsorted(rows["run"].to_numpy(), runs, side="right")
        places = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        return rows.iloc[np.concatenate(places)] if places else rows.iloc[:0]

    def tokens_of(self, rows: pd.DataFrame) -> NDArray[np.unsignedinteger]:
        """Counted token times, in nanoseconds, of some rows of `frame`."""
        firsts = rows["first_token"].to_numpy()
        counts = rows["token_times"].to_numpy()
        parts = [self.token_ns[first : first + count] for first, count in zip(firsts, counts, strict=True)]
        return np.concatenate(parts) if parts else self.token_ns[:0]
