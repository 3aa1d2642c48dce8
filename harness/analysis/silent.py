"""Runs whose worker was gone before it told where it ran: killed while it loaded, most of all at a memory ceiling.

Their records name no machine and no build. Where all other runs of their dataset that were started in the same way
agree about both, they belong there; where those disagree, or there is none, they stay by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from harness.analysis.runs import Run, Setup


def adopted(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs of one dataset, in the same order."""
    spoke = {run.cell.setup for run in runs if run.cell.setup.fingerprint}
    of_way: dict[tuple[object, ...], list[Setup]] = {}
    for setup in spoke:
        of_way.setdefault(_way(setup), []).append(setup)
    return tuple(_adopt(run, of_way.get(_way(run.cell.setup), [])) for run in runs)


def _way(setup: Setup) -> tuple[object, ...]:
    """What the study knows of a run by itself."""
    return setup.schema, setup.device, setup.engine, setup.origin, setup.environment, setup.power_mode


def _adopt(run: Run, setups: Sequence[Setup]) -> Run:
    if run.cell.setup.fingerprint or len(setups) != 1:
        return run
    return dataclasses.replace(run, cell=msgspec.structs.replace(run.cell, setup=setups[0]))
