"""Attribution: shares of a decode step by category, and whether they may be taken as they are."""

from __future__ import annotations

from harness.analysis.attribution import ADDITIVITY_LIMIT, PERTURBATION_LIMIT, Attribution, Share, attribution
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.stats import Interval
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import RunKind

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="mode", title="Timed by", details=True),
    Column(key="category", title="Part"),
    Column(key="net_ns", title="Time", style=Style.NS_AS_MS, unit="ms/token"),
    Column(key="share", title="Share", style=Style.PERCENT, unit="%"),
    Column(key="share_low", title="95 % from", style=Style.PERCENT, unit="%"),
    Column(key="share_high", title="to", style=Style.PERCENT, unit="%"),
    Column(key="weight_bytes", title="Weights", style=Style.BYTES_GB, unit="GB/token"),
    Column(key="kv_bytes", title="KV cache", style=Style.BYTES_GB, unit="GB/token", details=True),
    Column(key="activation_bytes", title="Activations", style=Style.BYTES_GB, unit="GB/token", details=True),
    Column(key="additivity", title="Nodes / token", style=Style.RATIO, details=True),
    Column(key="perturbation", title="Profiled / not", style=Style.RATIO, details=True),
    Column(key="kind", title="Shares are"),
)


def table(evidence: Evidence) -> Table:
    """One row a category of each profiled cell, largest first."""
    rows = []
    for runs in evidence.of_kind(RunKind.PROFILE):
        found = attribution(runs)
        if found is None:
            continue
        for share in sorted(found.shares, key=lambda share: -share.ns_per_token):
            rows.append(Row(values=_values(evidence, found, share), marks=watermarks(runs.cell)))
    return make("attribution", "Attribution", COLUMNS, rows, note=NOTE, absent="no run was profiled")


def _values(evidence: Evidence, found: Attribution, share: Share) -> tuple[Value, ...]:
    return (
        evidence.setup_name(found.cell) or None,
        found.cell.experiment,
        evidence.names.cell(found.cell),
        ", ".join(mode.value for mode in found.modes),
        share.category.value,
        share.ns_per_token,
        *_share(found, share),
        share.weight_bytes,
        share.kv_bytes,
        share.activation_bytes,
        _value(found.additivity),
        _value(found.perturbation),
        "bounds" if found.are_bounds else "measured",
    )


def _share(found: Attribution, share: Share) -> tuple[Value, Value, Value]:
    """Bounds have no middle."""
    if found.are_bounds:
        return None, share.low_bound, share.high_bound
    return share.share.value, share.share.low, share.share.high


def _value(interval: Interval | None) -> Value:
    return None if interval is None else interval.value


NOTE = (
    "Node times without the callbacks' own cost; profiled and unprofiled bursts of a round are a pair. Where node "
    f"times differ from the unprofiled token by more than {ADDITIVITY_LIMIT:.0%}, or profiling slows a token by more "
    f"than {PERTURBATION_LIMIT:.0%}, shares are bounds: any part may have taken all that does not add up."
)
