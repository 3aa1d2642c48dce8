"""Energy: joules per token, each channel by itself, gross and less the idle power."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.cells import CellRuns
from harness.analysis.energy import CellEnergy, ChannelId, EnergyFigure, Refusal
from harness.analysis.evidence import Evidence
from harness.analysis.runs import watermarks
from harness.analysis.tables.base import Column, Row, Style, Table, make
from harness.terms import BurstKind

SHOWN = {
    "kind": Column(key="kind", title="Window"),
    "scope": Column(key="scope", title="What the sensor covers"),
    "channel": Column(key="channel", title="Channel", details=True),
    "source": Column(key="source", title="Read by", details=True),
    "quality": Column(key="quality", title="Quality"),
    "gross_j_per_token": Column(key="gross_j_per_token", title="Gross", style=Style.SIGNIFICANT3, unit="J/token"),
    "gross_low_j_per_token": Column(key="gross_low_j_per_token", title="95 % from", style=Style.SIGNIFICANT3),
    "gross_high_j_per_token": Column(key="gross_high_j_per_token", title="to", style=Style.SIGNIFICANT3),
    "net_j_per_token": Column(key="net_j_per_token", title="Net", style=Style.SIGNIFICANT3, unit="J/token"),
    "net_low_j_per_token": Column(key="net_low_j_per_token", title="95 % from", style=Style.SIGNIFICANT3, details=True),
    "net_high_j_per_token": Column(key="net_high_j_per_token", title="to", style=Style.SIGNIFICANT3, details=True),
    "error_percent": Column(
        key="error_percent", title="Instrument", style=Style.SIGNIFICANT3, unit="± %", details=True
    ),
    "idle_mw": Column(key="idle_mw", title="Idle", style=Style.COUNT, unit="mW"),
    "windows": Column(key="windows", title="Windows", style=Style.COUNT),
    "windows_left_out": Column(key="windows_left_out", title="Left out", style=Style.COUNT, details=True),
    "updates": Column(key="updates", title="Sensor updates", style=Style.COUNT, details=True),
    "remark": Column(key="remark", title="Remark"),
}
COLUMNS = (
    Column(key="setup", title="Machine"),
    Column(key="experiment", title="Experiment", details=True),
    Column(key="model", title="Model"),
    *SHOWN.values(),
)


def table(evidence: Evidence) -> Table:
    """One row a cell, channel and kind of window; a channel that was refused has a row with the reason."""
    rows = [row for runs, energy in evidence.energies.items() for row in _rows(evidence, runs, energy)]
    absent = f"energy: unavailable ({'; '.join(evidence.why_no_power) or 'no timed run kept power readings'})"
    return make("energy", "Energy", COLUMNS, rows, note=NOTE, absent=absent)


def _rows(evidence: Evidence, runs: CellRuns, energy: CellEnergy) -> list[Row]:
    head = (evidence.setup_name(runs.cell) or None, runs.cell.experiment, evidence.names.cell(runs.cell))
    marks = watermarks(runs.cell)
    rows = []
    for figure in energy.figures:
        values = _figure_row(figure) | _with_refusals(figure, energy)
        rows.append(Row(values=(*head, *(None if values[key] == "" else values[key] for key in SHOWN)), marks=marks))
    known = {(figure.channel, figure.kind) for figure in energy.figures}
    for (channel, kind), refusals in _grouped(energy).items():
        if (channel, kind) not in known and not (kind is None and any(channel == one for one, _ in known)):
            words = _refused_row(channel, kind, refusals)
            rows.append(Row(values=(*head, *(words.get(key) for key in SHOWN)), marks=marks))
    return rows


def _grouped(energy: CellEnergy) -> dict[tuple[ChannelId, BurstKind | None], list[Refusal]]:
    found: dict[tuple[ChannelId, BurstKind | None], list[Refusal]] = {}
    for refusal in energy.refusals:
        found.setdefault((refusal.channel, refusal.kind), []).append(refusal)
    return found


def _with_refusals(figure: EnergyFigure, energy: CellEnergy) -> dict[str, str | int | float | None]:
    """The remark, with the runs that this channel's figure had to do without."""
    refused = [one for one in energy.refusals if one.channel == figure.channel and one.kind in (None, figure.kind)]
    remark = str(_figure_row(figure)["remark"])
    if refused:
        remark = "; ".join(part for part in (remark, f"without {_reasons(refused)}") if part)
    return {"remark": remark}


def _refused_row(channel: ChannelId, kind: BurstKind | None, refusals: Sequence[Refusal]) -> dict[str, str]:
    return {
        "kind": kind.value if kind else "all",
        "scope": channel.scope,
        "channel": channel.name,
        "source": channel.source,
        "quality": channel.quality.value,
        "remark": f"no joule: {_reasons(refusals)}",
    }


def _reasons(refusals: Sequence[Refusal]) -> str:
    """Each reason once, with the number of runs where a figure of several runs lacks them."""
    counts = Counter(refusal.reason for refusal in refusals)
    return "; ".join(f"{reason} ({count} runs)" if count > 1 else reason for reason, count in counts.items())


def _figure_row(figure: EnergyFigure) -> dict[str, str | int | float | None]:
    """Values by the keys of `SHOWN`."""
    gross, net = figure.gross_j_per_token, figure.net_j_per_token
    remarks = ["short_window"] if figure.short_window else []
    remarks += [f"no net energy: {figure.net_absent}"] if figure.net_absent else []
    if figure.drifted_run_ids and net:
        remarks.append(f"net without {len(figure.drifted_run_ids)} of {len(figure.run_ids)} runs: idle power drifted")
    return {
        "kind": figure.kind.value,
        "scope": figure.channel.scope,
        "channel": figure.channel.name,
        "source": figure.channel.source,
        "quality": figure.channel.quality.value,
        "gross_j_per_token": gross.value,
        "gross_low_j_per_token": gross.low,
        "gross_high_j_per_token": gross.high,
        "net_j_per_token": net.value if net else None,
        "net_low_j_per_token": net.low if net else None,
        "net_high_j_per_token": net.high if net else None,
        "error_percent": 100 * figure.error_mj / figure.gross_mj if figure.gross_mj else None,
        "idle_mw": figure.idle_mw,
        "windows": figure.windows,
        "windows_left_out": figure.windows_left_out,
        "updates": figure.updates,
        "remark": "; ".join(remarks),
    }


NOTE = (
    "Channels overlap and are never added; joules of different sensors are never divided by each other. Net is gross "
    "less the idle power before and after, over the runs in which that did not drift by more than 5 %. Intervals hold "
    "the spread over windows and the instrument's stated error."
)
