"""What llama-bench says of the same cells: ratio with interval, and whether numbers of the two may be compared."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np

from harness import crosscheck_file
from harness.analysis.stats import Floats, Interval, geometric_interval
from harness.crosscheck_file import CROSSCHECK, Crosscheck, CrosscheckCell, CrosscheckRound
from harness.errors import IntegrityError

TOLERANCE = 0.02
CUT_FACTOR = (
    1.5  # a repetition this many times the median that lasts longer than the suspension before it was cut by it
)


class Agreement(StrEnum):
    """What the interval allows to say."""

    COMPARABLE = "comparable"
    DIFFERENT = "not comparable: over 2 % apart"
    UNDECIDED = "not comparable: not shown to lie within 2 %"
    OTHER_COMMIT = "not comparable: another commit of llama.cpp"
    NOT_MEASURED = "not measured"


def read_crosscheck(path: Path) -> Crosscheck | None:
    """crosscheck.json of a dataset folder; null where there is none.

    Raises:
        IntegrityError: the file is damaged, or of another version.
    """
    place = path / CROSSCHECK
    if not place.is_file():
        return None
    try:
        return crosscheck_file.decode(place.read_bytes())
    except ValueError as error:
        raise IntegrityError(str(error), where=str(place), cure="run ./artifact crosscheck again") from None


def counted_ns(one: CrosscheckRound, cell: CrosscheckCell) -> float | None:
    """Time per counted token of the harness; null when no token was counted."""
    counted = one.token_ns[cell.settle_tokens :]
    return sum(counted) / len(counted) if counted else None


def whole_repetitions_ns(cell: CrosscheckCell) -> list[list[tuple[int, ...]]]:
    """Repetitions of llama-bench, block by block and round by round, without those that a suspension cut."""
    every = [duration for block in cell.blocks for one in block for duration in one.repetition_ns]
    usual = float(np.median(every)) if every else 0.0
    return [[tuple(d for d in one.repetition_ns if not _cut(d, one, usual)) for one in block] for block in cell.blocks]


def _cut(duration_ns: int, one: CrosscheckRound, usual_ns: float) -> bool:
    return one.suspended_ns > 0 and duration_ns > one.suspended_ns and duration_ns > CUT_FACTOR * usual_ns


def ratio(cell: CrosscheckCell) -> Interval | None:
    """Harness over llama-bench in tokens per second: geometric mean of rounds; null without any pair."""
    series = [speedups for speedups in map(_speedups, *_sides(_warm(cell))) if speedups.size]
    return geometric_interval(series) if series else None


def _warm(cell: CrosscheckCell) -> CrosscheckCell:
    """Without each block's first round: llama-bench has just loaded, and still brings in weights while it is timed."""
    blocks = tuple(tuple(one for one in block if one.suspended_ns) for block in cell.blocks)
    return msgspec.structs.replace(cell, blocks=blocks)


def _sides(cell: CrosscheckCell) -> tuple[list[list[float | None]], list[list[float | None]]]:
    ours = [[counted_ns(one, cell) for one in block] for block in cell.blocks]
    theirs = [
        [float(np.mean(kept)) / cell.decode_tokens if kept else None for kept in block]
        for block in whole_repetitions_ns(cell)
    ]
    return ours, theirs


def _speedups(ours: list[float | None], theirs: list[float | None]) -> Floats:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return np.array([bench / harness for harness, bench in pairs], dtype=np.float64)


def tokens_per_s(cell: CrosscheckCell) -> tuple[float | None, float | None]:
    """Of the harness and of llama-bench: all tokens over all time."""
    cell = _warm(cell)
    counted = [one.token_ns[cell.settle_tokens :] for block in cell.blocks for one in block]
    kept = [duration for block in whole_repetitions_ns(cell) for one in block for duration in one]
    return _rate(sum(map(len, counted)), sum(map(sum, counted))), _rate(cell.decode_tokens * len(kept), sum(kept))


def _rate(tokens: int, duration_ns: int) -> float | None:
    return tokens / duration_ns * 1e9 if duration_ns else None


def cut_repetitions(cell: CrosscheckCell) -> int:
    """How many repetitions a suspension cut."""
    every = sum(len(one.repetition_ns) for block in cell.blocks for one in block)
    return every - sum(len(one) for block in whole_repetitions_ns(cell) for one in block)


def agreement(crosscheck: Crosscheck, interval: Interval | None) -> Agreement:
    """Comparable only where the whole interval lies within 2 % and both were built from one commit."""
    if interval is None:
        return Agreement.NOT_MEASURED
    if not _same_commit(crosscheck):
        return Agreement.OTHER_COMMIT
    if interval.low is None or interval.high is None:
        return Agreement.UNDECIDED
    if interval.low >= 1 - TOLERANCE and interval.high <= 1 + TOLERANCE:
        return Agreement.COMPARABLE
    outside = interval.low > 1 + TOLERANCE or interval.high < 1 - TOLERANCE
    return Agreement.DIFFERENT if outside else Agreement.UNDECIDED


def _same_commit(crosscheck: Crosscheck) -> bool:
    """llama-bench may tell a short commit; none at all is no agreement."""
    if crosscheck.bench is None or crosscheck.harness is None:
        return False
    theirs, ours = crosscheck.bench.build_commit, crosscheck.harness.llama_cpp_commit
    return len(theirs) >= 7 and ours.startswith(theirs)


def lines(crosscheck: Crosscheck) -> tuple[str, ...]:
    """One line a model, for the terminal."""
    return tuple(_line(crosscheck, cell) for cell in crosscheck.cells)


def _line(crosscheck: Crosscheck, cell: CrosscheckCell) -> str:
    interval = ratio(cell)
    verdict = agreement(crosscheck, interval).value
    why = f" ({cell.incomplete.splitlines()[0]})" if cell.incomplete else ""
    if interval is None:
        return f"{cell.model.name}: {verdict}{why}"
    bounds = f", 95 % from {interval.low:.3f} to {interval.high:.3f}" if interval.low and interval.high else ""
    return f"{cell.model.name}: {interval.value:.3f} of llama-bench{bounds}, n {interval.n}: {verdict}{why}"
