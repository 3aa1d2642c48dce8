"""Proxy validity: proxies against the released weights that they stand for."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.ratios import Ratio
from harness.analysis.tables.base import Column, Row, Style, Table, Value, make
from harness.terms import Weights

COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="model", title="Model"),
    Column(key="quantity", title="Speed of"),
    Column(key="proxy_tokens_per_s", title="Proxy", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="released_tokens_per_s", title="Released", style=Style.SIGNIFICANT3, unit="tokens/s"),
    Column(key="ratio", title="Proxy / released", style=Style.RATIO),
    Column(key="low", title="95 % from", style=Style.RATIO),
    Column(key="high", title="to", style=Style.RATIO),
    Column(key="pairs", title="Pairs", style=Style.COUNT),
)


def table(evidence: Evidence) -> Table:
    """One row a proxy that was paired with its original."""
    rows = [
        Row(values=_values(evidence, ratio), marks=ratio.watermarks)
        for ratio in evidence.ratios
        if ratio.candidate.model.name == ratio.baseline.model.name
        and (ratio.candidate.model.weights, ratio.baseline.model.weights) == (Weights.PROXY, Weights.RELEASED)
    ]
    absent = "no proxy was paired with the released weights of the same model"
    return make("proxy_validity", "Proxy validity", COLUMNS, rows, note=NOTE, absent=absent)


def _values(evidence: Evidence, ratio: Ratio) -> tuple[Value, ...]:
    return (
        evidence.setup_name(ratio.candidate) or None,
        evidence.names.model(ratio.candidate.model),
        ratio.quantity.value,
        ratio.candidate_tokens_per_s,
        ratio.baseline_tokens_per_s,
        ratio.interval.value,
        ratio.interval.low,
        ratio.interval.high,
        ratio.interval.n,
    )


NOTE = "1 means that random weights of the same shapes and types cost as much time as the real ones."
