"""Router overhead: where a decode token's time goes, node by node."""

from __future__ import annotations

from harness.analysis.cells import CellRuns
from harness.analysis.evidence import Evidence
from harness.analysis.profile_formulas import MOE_BLOCK, ROUTING, burst_means, net_ns, profiles
from harness.analysis.runs import watermarks
from harness.analysis.stats import interval_of_mean
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import NodeCategory, RunKind

PARTS = (
    ("attention", "Attention", (NodeCategory.ATTENTION,)),
    ("kv", "KV cache", (NodeCategory.KV,)),
    ("router", "Router", ROUTING),
    ("experts", "Experts", tuple(category for category in MOE_BLOCK if category not in ROUTING)),
    ("dense_ffn", "Dense FFN", (NodeCategory.DENSE_FFN,)),
    ("head", "Head", (NodeCategory.HEAD,)),
    ("rest", "Rest", (NodeCategory.NORM, NodeCategory.CONVOLUTION, NodeCategory.OTHER)),
)
COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    Column(key="mode", title="Timed by", details=True),
    *(Column(key=f"{key}_ns", title=title, style=Style.NS_AS_MS, unit="ms/token") for key, title, _ in PARTS),
    Column(key="router_share", title="Router in MoE block", style=Style.PERCENT, unit="%"),
    Column(key="router_share_low", title="95 % from", style=Style.PERCENT, unit="%"),
    Column(key="router_share_high", title="to", style=Style.PERCENT, unit="%"),
    Column(key="tokens", title="Tokens", style=Style.COUNT),
    Column(key="unknown_nodes", title="Unknown nodes", details=True),
)


def table(evidence: Evidence) -> Table:
    """One row a profiled cell."""
    rows = [
        Row(values=_values(evidence, runs), marks=watermarks(runs.cell))
        for runs in evidence.of_kind(RunKind.PROFILE)
        if profiles(runs)
    ]
    absent = "no run was profiled"
    return make("router_overhead", "Router overhead", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, runs: CellRuns) -> tuple[Value, ...]:
    found = profiles(runs)
    tokens = sum(len(profile.total_ns) for profile in found)
    parts = [sum(float(net_ns(p, categories).sum()) for p in found) / tokens for _, _, categories in PARTS]
    unknown = sorted({name for profile in found for name in profile.unknown_nodes})
    return (
        evidence.setup_name(runs.cell) or None,
        runs.cell.experiment,
        evidence.names.cell(runs.cell),
        ", ".join(sorted({profile.mode.value for profile in found})),
        *(part or None for part in parts),
        *_router_share(runs),
        tokens,
        ", ".join(unknown) or None,
    )


def _router_share(runs: CellRuns) -> tuple[Value, Value, Value]:
    """Share with its interval; nulls for dense models."""
    series = [
        burst_means(p, net_ns(p, ROUTING)) / burst_means(p, net_ns(p, MOE_BLOCK))
        for p in profiles(runs)
        if net_ns(p, MOE_BLOCK).min() > 0
    ]
    if not series:
        return None, None, None
    share = interval_of_mean(series)
    return share.value, share.low, share.high


NOTE = "Node times without the callbacks' own cost, from runs that were profiled and are timed nowhere else."
