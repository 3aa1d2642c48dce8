"""What a record is worth: one rule for the store, which repeats runs, and the analysis, which chooses among records."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from harness.records import Taint, Termination
from harness.terms import Ending, TaintKind


class Standing(IntEnum):
    """What a record is worth; of several of one run the one that stands highest counts."""

    FAILED = 0
    DISTURBED = 1  # ended well, but something leaves it out of speed: worth measuring once more
    SOUND = 2


def standing(termination: Termination, taints: Iterable[Taint], memory_limit_bytes: int) -> Standing:
    """What a record is worth.

    Under a memory limit, being killed for it and waiting for the disk are answers, not accidents. A drift of the idle
    power spoils net energy alone.
    """
    limited = memory_limit_bytes > 0
    if termination.ending is not Ending.OK:
        return Standing.SOUND if limited and termination.ending is Ending.OOM else Standing.FAILED
    harmless = {TaintKind.IDLE_DRIFT, *((TaintKind.MAJOR_FAULTS, TaintKind.SWAPPED) if limited else ())}
    return Standing.SOUND if all(taint.kind in harmless for taint in taints) else Standing.DISTURBED
