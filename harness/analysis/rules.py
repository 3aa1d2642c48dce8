"""Rules of honest measurement, each checked on every cell that it concerns; a broken one is told with its run ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness.analysis.accounting import NO_REASON, accounts
from harness.analysis.cells import CellRuns, Speed
from harness.analysis.evidence import Evidence
from harness.records import Struct

OVERHEAD_LIMIT = 0.005  # of a window: what the harness claims of itself
VARIATION_LIMIT = 0.15  # above it the machine had other things to do
WORST_LIMIT = 2.0  # longest burst over the median one
DRIFT_LIMIT = 0.10  # pairs cancel it, absolute speeds do not
FOREIGN_LIMIT = 0.25  # of one core, by everyone else
WAITING_LIMIT = 0.005  # of one core, by a worker that waits for its turn
MIN_BLOCKS_LIMIT = 10  # fewer blocks of rounds make an interval rough


class Check(Struct, frozen=True):
    """One rule, and the cells that broke it."""

    rule: str
    checked: int
    broken: int
    detail: str  # of the cells that broke it
    run_ids: tuple[str, ...]


Broken = Callable[[Speed], str]  # words where the rule is broken, "" where it is kept


def checks(evidence: Evidence) -> tuple[Check, ...]:
    """All rules, kept ones too."""
    timed = [(runs, runs.decode) for runs in evidence.timed if runs.decode]
    by_speed = tuple(_by_speed(evidence, rule, broken, timed) for rule, broken in RULES)
    own = (_waiting(evidence), _idle_drift(evidence), _covered(evidence))
    return (_accounted(evidence), _experts(evidence), *by_speed, *own, *_ratios(evidence))


def _by_speed(evidence: Evidence, rule: str, broken: Broken, timed: Sequence[tuple[CellRuns, Speed]]) -> Check:
    found = [(runs, words) for runs, speed in timed if (words := broken(speed))]
    return _check(evidence, rule, len(timed), found)


def _check(evidence: Evidence, rule: str, checked: int, found: Sequence[tuple[CellRuns, str]]) -> Check:
    return Check(
        rule=rule,
        checked=checked,
        broken=len(found),
        detail="; ".join(f"{evidence.names.cell(runs.cell)}: {words}" for runs, words in found),
        run_ids=tuple(run_id for runs, _ in found for run_id in runs.run_ids),
    )


def _over(limit: float, field: str, *, percent: bool = True) -> Broken:
    """Broken where the size of a field of `Speed` is over its limit."""

    def broken(speed: Speed) -> str:
        value = getattr(speed, field)
        if value is None or abs(value) <= limit:
            return ""
        return f"{100 * value:.2g} %" if percent else f"{value:.2f}"

    return broken


def _faults(speed: Speed) -> str:
    return f"{speed.major_faults} major faults" if speed.major_faults else ""


RULES: tuple[tuple[str, Broken], ...] = (
    ("The harness takes at most 0.5 % of every decode window", _over(OVERHEAD_LIMIT, "overhead_worst_fraction")),
    ("No major fault in a counted decode window", _faults),
    ("Time per token varies by at most 15 % between bursts", _over(VARIATION_LIMIT, "variation")),
    ("No burst takes over twice the median", _over(WORST_LIMIT, "worst_over_median", percent=False)),
    ("Speed drifts by at most 10 % over the session", _over(DRIFT_LIMIT, "drift")),
    ("Others take at most a quarter of a core", _over(FOREIGN_LIMIT, "foreign_fraction")),
)


def _accounted(evidence: Evidence) -> Check:
    """Planned = counted + left out with a reason."""
    found = accounts(evidence)
    lost = [group for account in found for group in account.left_out if group.reason == NO_REASON]
    ids = tuple(run_id for group in lost for run_id in group.run_ids)
    return Check(
        rule="Every planned run has a record or a reason",
        checked=sum(account.planned or account.recorded for account in found),
        broken=len(ids),
        detail=", ".join(model for group in lost for model in group.models),
        run_ids=ids,
    )


def _experts(evidence: Evidence) -> Check:
    """Cold experts excluded by fact."""
    moe = [runs for runs in evidence.timed if runs.cell.model.expert_count]
    found = []
    for runs in moe:
        cold = [run for run in runs.runs if run.experts and run.experts.reached < run.experts.total]
        if cold:
            found.append((runs, f"{len(cold)} of {len(runs.numbers)} runs left experts cold"))
    return _check(evidence, "The warm-up reached every expert", len(moe), found)


def _waiting(evidence: Evidence) -> Check:
    """Threads of waiting workers are paused, so that turns are what they seem."""
    told = [(runs, runs.waiting_fraction) for runs in evidence.timed if runs.waiting_fraction is not None]
    found = [(runs, f"{100 * share:.2g} %") for runs, share in told if share is not None and share > WAITING_LIMIT]
    return _check(evidence, "A waiting worker takes at most 0.5 % of a core", len(told), found)


def _idle_drift(evidence: Evidence) -> Check:
    """Net energy rests on an idle power that was the same before and after."""
    figures = [figure for energy in evidence.energies.values() for figure in energy.figures]
    told = {run_id for figure in figures if figure.idle_drift is not None for run_id in figure.run_ids}
    drifted = tuple(dict.fromkeys(run_id for figure in figures for run_id in figure.drifted_run_ids))
    return Check(
        rule="Idle power differs by at most 5 % before and after",
        checked=len(told),
        broken=len(drifted),
        detail=f"{len(drifted)} runs are left out of net energy" if drifted else "",
        run_ids=drifted,
    )


def _covered(evidence: Evidence) -> Check:
    """A gap of over three usual periods leaves a window without a joule."""
    figures = [figure for energy in evidence.energies.values() for figure in energy.figures]
    holed = [figure for figure in figures if figure.windows_left_out]
    return Check(
        rule="Power readings cover every window without a gap",
        checked=sum(figure.windows + figure.windows_left_out for figure in figures),
        broken=sum(figure.windows_left_out for figure in holed),
        detail=", ".join(dict.fromkeys(str(figure.channel) for figure in holed)),
        run_ids=tuple(dict.fromkeys(run_id for figure in holed for run_id in figure.run_ids)),
    )


def _ratios(evidence: Evidence) -> Iterator[Check]:
    ordered = [ratio for ratio in evidence.ratios if ratio.order_effect is not None]
    yield Check(
        rule="Who goes first in a pair has no effect",
        checked=len(ordered),
        broken=sum(ratio.order_effect.excludes(0.0) for ratio in ordered if ratio.order_effect),
        detail="; ".join(
            f"{evidence.names.cell(ratio.candidate)} / {evidence.names.cell(ratio.baseline)} {ratio.quantity.value}: "
            f"{100 * ratio.order_effect.value:+.1f} %"
            for ratio in ordered
            if ratio.order_effect and ratio.order_effect.excludes(0.0)
        ),
        run_ids=(),
    )
    rough = [ratio for ratio in evidence.ratios if ratio.interval.n < MIN_BLOCKS_LIMIT * ratio.interval.block_length]
    yield Check(
        rule="An interval rests on at least ten blocks of pairs",
        checked=len(evidence.ratios),
        broken=len(rough),
        detail="; ".join(
            f"{evidence.names.cell(ratio.candidate)} / {evidence.names.cell(ratio.baseline)} {ratio.quantity.value}: "
            f"{ratio.interval.n} pairs in blocks of {ratio.interval.block_length}"
            for ratio in rough
        ),
        run_ids=(),
    )
