"""The verdict on each claim, from the observations that speak to it.

In this order: no data, not run. Data of other weights or another family of devices, not comparable. The claim's family
but not its machine, by direction. The claim's machine: reproduced when the whole interval lies within the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from harness.analysis.claims import Claim, ClaimVerdict, Verdict
from harness.analysis.evidence import Evidence
from harness.analysis.formulas import observe
from harness.analysis.names import setup_label
from harness.analysis.observation import Observation
from harness.analysis.runs import Cell
from harness.analysis.stats import Interval
from harness.standing import Standing
from harness.terms import Origin, Weights

SEVERITY = (
    Verdict.REPRODUCED,
    Verdict.NOT_RUN,
    Verdict.NOT_COMPARABLE,
    Verdict.DIRECTION_ONLY,
    Verdict.NOT_REPRODUCED,
)


def judge(evidence: Evidence, claims: Mapping[str, Claim]) -> tuple[ClaimVerdict, ...]:
    """One verdict a claim, in their order."""
    return tuple(_judge(evidence, id_, claim) for id_, claim in claims.items())


def to_json(verdicts: Sequence[ClaimVerdict]) -> bytes:
    """All verdicts with their numbers and run ids, one JSON array."""
    return msgspec.json.format(msgspec.json.encode(verdicts), indent=2) + b"\n"


def _judge(evidence: Evidence, id_: str, claim: Claim) -> ClaimVerdict:
    observations = observe(evidence, claim)
    if not observations:
        return _verdict(evidence, id_, claim, Verdict.NOT_RUN, _why_nothing(evidence, claim), None)
    ranked = sorted(observations, key=lambda seen: _rank(evidence, claim, seen))
    told = ranked[0] if claim.candidate else _worst(evidence, claim, ranked)
    verdict, reason = _weigh(evidence, claim, told)
    return _verdict(evidence, id_, claim, verdict, reason, told)


def _worst(evidence: Evidence, claim: Claim, ranked: Sequence[Observation]) -> Observation:
    """A claim about every model stands or falls with the model that fits it worst, of those nearest to its scope."""
    nearest = _rank(evidence, claim, ranked[0])[0]
    peers = [seen for seen in ranked if _rank(evidence, claim, seen)[0] == nearest]
    return max(peers, key=lambda seen: SEVERITY.index(_weigh(evidence, claim, seen)[0]))


def _rank(evidence: Evidence, claim: Claim, seen: Observation) -> tuple[int, float]:
    """Nearest to the claim's scope first; of equals the narrowest interval."""
    distance = len(_strangers(claim, seen)) * 2 + (not _same_machine(evidence, claim, seen))
    width = seen.interval.half_width_relative if seen.interval else None
    return distance, float("inf") if width is None else width


def _weigh(evidence: Evidence, claim: Claim, seen: Observation) -> tuple[Verdict, str]:
    strangers = _strangers(claim, seen)
    if seen.interval is None:
        return Verdict.NOT_COMPARABLE, f"{'; '.join(strangers)}."
    told = _told(claim, seen, seen.interval)
    if strangers:
        return Verdict.NOT_COMPARABLE, f"{'; '.join(strangers)}. {told}"
    if not _same_machine(evidence, claim, seen):
        why = f"not the claim's machine ({_wanted(claim)}): judged by direction."
        return _by_direction(claim, seen.interval, f"{why} {told}")
    return _by_tolerance(claim, seen.interval, told)


def _strangers(claim: Claim, seen: Observation) -> list[str]:
    """Why the observation can't satisfy the claim, in words."""
    setups = [cell.setup for cell in seen.cells]
    found = list(seen.faults)
    if any(setup.origin is not Origin.MEASURED for setup in setups):
        found.append(
            f"{next(s.origin for s in setups if s.origin is not Origin.MEASURED).value} records satisfy no claim"
        )
    if any(mark == "fake engine" for mark in seen.watermarks):
        found.append("the fake engine satisfies no claim")
    if claim.scope.weights is Weights.RELEASED and any(cell.model.weights is Weights.PROXY for cell in seen.cells):
        found.append("proxies can't satisfy a claim about released weights")
    if claim.scope.device is not None and any(setup.device is not claim.scope.device for setup in setups):
        found.append(f"{setups[0].device.value} records say nothing of {claim.scope.device.value}")
    return found


def _same_machine(evidence: Evidence, claim: Claim, seen: Observation) -> bool:
    scope = claim.scope
    for setup in (cell.setup for cell in seen.cells):
        host = evidence.hosts[setup.fingerprint]
        if scope.host.lower() not in f"{host.accelerator} {host.cpu_model}".lower():
            return False
        if scope.power_mode and scope.power_mode.lower() not in setup.power_mode.lower().split():  # "nvpmodel 15W"
            return False
    return True


def _by_tolerance(claim: Claim, interval: Interval, told: str) -> tuple[Verdict, str]:
    band = claim.tolerance
    if interval.low is None or interval.high is None:
        return Verdict.NOT_COMPARABLE, f"too few observations for an interval. {told}"
    if band.low <= interval.low and interval.high <= band.high:
        if claim.must_hold is not None and interval.excludes(claim.must_hold):
            why = (
                f"within {_band(claim)}, but a difference was detected: {_figure(claim, claim.must_hold)} lies outside"
            )
            return Verdict.DIRECTION_ONLY, f"{why}. {told}"
        return Verdict.REPRODUCED, f"the whole interval lies within {_band(claim)}. {told}"
    if claim.direction is not None:
        return _by_direction(claim, interval, f"the interval leaves {_band(claim)}. {told}")
    if interval.low > band.high or interval.high < band.low:
        return Verdict.NOT_REPRODUCED, f"outside {_band(claim)}. {told}"
    return Verdict.NOT_COMPARABLE, f"the interval is too wide to decide on {_band(claim)}. {told}"


def _by_direction(claim: Claim, interval: Interval, told: str) -> tuple[Verdict, str]:
    """Whether the interval lies on the claimed side."""
    direction = claim.direction
    if direction is None or interval.low is None or interval.high is None:
        return Verdict.NOT_COMPARABLE, told
    if not interval.excludes(direction.null):
        overlaps = interval.low <= claim.tolerance.high and interval.high >= claim.tolerance.low
        if overlaps:
            return Verdict.NOT_COMPARABLE, f"{told} No difference detected, and too wide to exclude the claimed one."
        return Verdict.NOT_REPRODUCED, f"{told} No difference detected."
    holds = direction.holds(interval.value)
    return (Verdict.DIRECTION_ONLY, told) if holds else (Verdict.NOT_REPRODUCED, told)


def _told(claim: Claim, seen: Observation, interval: Interval) -> str:
    """What was seen, and whether its direction is the claimed one."""
    low, high = interval.low, interval.high
    bounds = "" if low is None or high is None else f" ({_figure(claim, low)} to {_figure(claim, high)})"
    published = "" if claim.published is None else f", claimed {claim.published:g}"
    agrees = ""
    if claim.direction is not None:
        sure = interval.excludes(claim.direction.null)
        same = "agrees" if claim.direction.holds(interval.value) else "is the opposite"
        agrees = f"; the direction {same}" if sure else "; no difference detected"
    remark = f", {seen.remark}" if seen.remark else ""
    return f"Seen: {_figure(claim, interval.value)}{bounds}{published}{remark}{agrees}."


def _figure(claim: Claim, value: float) -> str:
    """Shares of something in percent, other values with three digits."""
    return f"{100 * value:.3g} %" if claim.unit.startswith("of ") else f"{value:.3g}"


def _band(claim: Claim) -> str:
    return f"{_figure(claim, claim.tolerance.low)} to {_figure(claim, claim.tolerance.high)}"


def _wanted(claim: Claim) -> str:
    return ", ".join(part for part in (claim.scope.host, claim.scope.power_mode) if part)


def _why_nothing(evidence: Evidence, claim: Claim) -> str:
    """Which data are missing, and whether runs that would have given them were excluded."""
    needed = {claim.candidate, claim.baseline} - {""}
    lost = [run for run in evidence.runs if run.standing is not Standing.SOUND and run.cell.model.name in needed]
    excluded = f"; {len(lost)} runs of these models were excluded" if lost else ""
    return f"no data for: {claim.formula_text}{excluded}"


def _verdict(
    evidence: Evidence, id_: str, claim: Claim, verdict: Verdict, reason: str, seen: Observation | None
) -> ClaimVerdict:
    interval = seen.interval if seen else None
    return ClaimVerdict(
        id=id_,
        sentence=claim.sentence,
        origin=claim.origin,
        source=claim.source,
        verdict=verdict,
        reason=reason,
        published=claim.published,
        unit=claim.unit,
        value=interval.value if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=interval.n if interval else 0,
        tolerance_low=claim.tolerance.low,
        tolerance_high=claim.tolerance.high,
        tolerance_reason=claim.tolerance.reason,
        setup=_machine(evidence, seen.cells[0]) if seen else "",
        watermarks=seen.watermarks if seen else (),
        run_ids=seen.run_ids if seen else (),
    )


def _machine(evidence: Evidence, cell: Cell) -> str:
    return setup_label(cell.setup, evidence.hosts[cell.setup.fingerprint])
