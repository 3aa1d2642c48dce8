"""Bytes against bandwidth: how fast a token could be, under active and under total bytes, and where the rest goes.

A token that reads its bytes once cannot take less than bytes over bandwidth (Williams, Waterman & Patterson 2009, the
slanted part of the roof). Weights and KV cache count; activations stay in cache and are told beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

import numpy as np

from harness.analysis.attribution import Attribution
from harness.analysis.cells import CellRuns
from harness.analysis.runs import Cell
from harness.analysis.stats import Floats, Interval, geometric_interval
from harness.records import Struct
from harness.terms import NodeCategory, RunKind
from harness.units import NS_PER_S


class Hypothesis(StrEnum):
    """What a token's cost follows."""

    ACTIVE = "active bytes"
    TOTAL = "total bytes"
    UNDECIDED = "undecided"
    SAME = "active and total are the same"  # dense


class Bandwidth(Struct, frozen=True):
    """Read bandwidth of a machine, all threads."""

    bytes_per_s: Interval
    threads: int
    working_set_bytes: int
    last_cache_bytes: int | None
    run_ids: tuple[str, ...]


class TokenBytes(Struct, frozen=True):
    """Bytes that one decode step touches."""

    weights_active: int
    weights_total: int
    kv: int
    activations: int | None  # null where no profile tells of them


class Roofline(Struct, frozen=True):
    """A cell's speed beside its bounds."""

    cell: Cell
    measured_tokens_per_s: Interval
    bandwidth: Bandwidth
    touched: TokenBytes
    active_tokens_per_s: float  # bound if only the active bytes are read
    total_tokens_per_s: float  # bound if all bytes are
    achieved_bytes_per_s: float  # active weights and KV cache, at the measured speed
    favoured: Hypothesis

    @property
    def of_bound(self) -> float:
        """Measured speed over the bound of active bytes."""
        return self.measured_tokens_per_s.value / self.active_tokens_per_s

    @property
    def exceeds_bound(self) -> bool:
        """True when a token is faster than its bytes can be read: an error of measurement, not a triumph."""
        low = self.measured_tokens_per_s.low
        fastest = self.bandwidth.bytes_per_s.high or self.bandwidth.bytes_per_s.value
        per_byte = self.active_tokens_per_s / self.bandwidth.bytes_per_s.value
        return (low if low is not None else self.measured_tokens_per_s.value) > per_byte * fastest

    @property
    def refutes_total(self) -> bool:
        """True when the machine could not have read all bytes for each token at the measured speed."""
        low = self.measured_tokens_per_s.low
        fastest = self.bandwidth.bytes_per_s.high or self.bandwidth.bytes_per_s.value
        per_byte = self.total_tokens_per_s / self.bandwidth.bytes_per_s.value
        return self.favoured is not Hypothesis.SAME and low is not None and low > per_byte * fastest


class Gap(Struct, frozen=True):
    """Time of one category beyond what its bytes need."""

    category: NodeCategory
    ns_per_token: float
    bound_ns: float  # weights and KV cache over bandwidth
    gap_ns: float  # may be negative: bytes that stayed in cache
    share_of_gap: float | None


class Contrast(Struct, frozen=True):
    """Two models of one machine: their measured ratio beside the ratios that bytes predict; bandwidth cancels."""

    candidate: Cell
    baseline: Cell
    measured: Interval
    active_ratio: float
    total_ratio: float
    favoured: Hypothesis


def bandwidth(cells: Iterable[CellRuns], cell: Cell) -> Bandwidth | None:
    """Bandwidth measured by the runs of `cell`'s dataset and setup, with the most threads; null when there are none."""
    found = [
        runs
        for runs in cells
        if runs.kind is RunKind.BANDWIDTH and (runs.cell.dataset, runs.cell.setup) == (cell.dataset, cell.setup)
    ]
    measured = [one for runs in found if (one := _bandwidth(runs)) is not None]
    return max(measured, key=lambda one: one.threads, default=None)


def _bandwidth(runs: CellRuns) -> Bandwidth | None:
    samples = [sample for run in runs.runs for sample in run.bandwidth]
    if not samples:
        return None
    series: list[Floats] = []
    for run in runs.runs:
        rates: dict[int, list[float]] = {}
        for sample in run.bandwidth:
            rates.setdefault(sample.round, []).append(sample.read_bytes / sample.duration_ns * NS_PER_S)
        series.append(np.array([np.median(values) for _, values in sorted(rates.items())]))
    return Bandwidth(
        bytes_per_s=geometric_interval(series),
        threads=samples[0].threads,
        working_set_bytes=samples[0].working_set_bytes,
        last_cache_bytes=samples[0].last_cache_bytes,
        run_ids=runs.run_ids,
    )


def token_bytes(cell: Cell, profiled: Attribution | None = None) -> TokenBytes:
    """Bytes of a decode step: observed in the graph of a profile of this cell, else weights from the file's tensors."""
    model = cell.model
    if profiled is None:
        return TokenBytes(
            weights_active=model.weight_bytes_active, weights_total=model.weight_bytes_total, kv=0, activations=None
        )
    return TokenBytes(
        weights_active=sum(share.weight_bytes for share in profiled.shares),
        weights_total=model.weight_bytes_total,
        kv=sum(share.kv_bytes for share in profiled.shares),
        activations=sum(share.activation_bytes for share in profiled.shares),
    )


def roofline(runs: CellRuns, machine: Bandwidth, profiled: Attribution | None = None) -> Roofline | None:
    """A cell's decode speed beside its bounds, in steps: a wide batch decodes several sequences a step.

    Null without decode bursts or without bytes.
    """
    touched = token_bytes(runs.cell, profiled)
    if runs.decode is None or not touched.weights_active or not touched.weights_total:
        return None
    speed = runs.decode.tokens_per_s
    active = machine.bytes_per_s.value / (touched.weights_active + touched.kv)
    total = machine.bytes_per_s.value / (touched.weights_total + touched.kv)
    return Roofline(
        cell=runs.cell,
        measured_tokens_per_s=speed,
        bandwidth=machine,
        touched=touched,
        active_tokens_per_s=active,
        total_tokens_per_s=total,
        achieved_bytes_per_s=speed.value * (touched.weights_active + touched.kv),
        favoured=_favoured(speed, active, total) if runs.cell.model.expert_count else Hypothesis.SAME,
    )


def _favoured(measured: Interval, active: float, total: float) -> Hypothesis:
    """The nearer prediction on a logarithmic scale; undecided where the interval reaches across the middle."""
    middle = math.sqrt(active * total)
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    if measured.low is None or low <= middle <= high:
        return Hypothesis.UNDECIDED
    upper = Hypothesis.ACTIVE if active > total else Hypothesis.TOTAL
    lower = Hypothesis.TOTAL if upper is Hypothesis.ACTIVE else Hypothesis.ACTIVE
    return upper if low > middle else lower


def contrast(candidate: Roofline, baseline: Roofline, measured: Interval) -> Contrast:
    """A measured ratio of speeds beside the ratios that active and total bytes predict.

    Args:
        candidate: a mixture of experts.
        baseline: a dense model on the same machine.
        measured: candidate over baseline in tokens per second, from pairs.
    """
    active = candidate.active_tokens_per_s / baseline.active_tokens_per_s
    total = candidate.total_tokens_per_s / baseline.total_tokens_per_s
    return Contrast(
        candidate=candidate.cell,
        baseline=baseline.cell,
        measured=measured,
        active_ratio=active,
        total_ratio=total,
        favoured=_favoured(measured, active, total),
    )


def gaps(profiled: Attribution, machine: Bandwidth) -> tuple[Gap, ...]:
    """What each category takes beyond reading its weights and its part of the KV cache, largest first."""
    ns_per_byte = NS_PER_S / machine.bytes_per_s.value
    bounds = {share.category: (share.weight_bytes + share.kv_bytes) * ns_per_byte for share in profiled.shares}
    whole_ns = sum(share.ns_per_token - bounds[share.category] for share in profiled.shares)
    found = [
        Gap(
            category=share.category,
            ns_per_token=share.ns_per_token,
            bound_ns=bounds[share.category],
            gap_ns=share.ns_per_token - bounds[share.category],
            share_of_gap=(share.ns_per_token - bounds[share.category]) / whole_ns if whole_ns > 0 else None,
        )
        for share in profiled.shares
    ]
    return tuple(sorted(found, key=lambda gap: -gap.gap_ns))
