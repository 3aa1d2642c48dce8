"""The answer in plain words: for each machine, how the MoE model fares against each dense one."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.evidence import Evidence
from harness.analysis.figures.forest import headline_ratios
from harness.analysis.names import machine, told
from harness.analysis.ratios import Finding, Ratio
from harness.analysis.runs import Setup
from harness.records import Struct
from harness.report.reasons import reasons
from harness.terms import EngineKind, EnvironmentKind, Origin, Weights


class Comparison(Struct, frozen=True):
    """One dense model, and how the MoE model compares with it."""

    baseline: str
    ratio: str  # 0.969
    low: str
    high: str
    finding: Finding
    words: str  # "3.1 % slower than Llama-3.2-1B"
    pairs: int
    energy: str  # "2.10 times its energy a token (1.95 to 2.27)", or empty


class Answer(Struct, frozen=True):
    """What one machine says."""

    machine: str
    sentence: str
    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


def answers(evidence: Evidence) -> tuple[Answer, ...]:
    """One answer a dataset, setup and MoE model that was paired with a dense one."""
    found = []
    for dataset, setup in evidence.setups:
        by_model: dict[object, list[Ratio]] = {}
        for ratio in headline_ratios(evidence, dataset, setup):
            by_model.setdefault((ratio.candidate.model, ratio.candidate.settings), []).append(ratio)
        for ratios in by_model.values():
            found.append(_answer(evidence, setup, ratios))
    return tuple(found)


def _answer(evidence: Evidence, setup: Setup, ratios: Sequence[Ratio]) -> Answer:
    comparisons = tuple(_comparison(evidence, ratio) for ratio in ratios)
    name = evidence.names.cell(ratios[0].candidate)
    speed = ratios[0].candidate_tokens_per_s
    listed = _listed([comparison.words for comparison in comparisons])
    several = len(evidence.datasets) > 1
    place = f"Dataset {ratios[0].candidate.dataset + 1}: " if several else ""
    where = place + machine(evidence.hosts[setup.fingerprint])
    return Answer(
        machine=where + (f", {setup.power_mode}" if told(setup.power_mode) else ""),
        sentence=f"{name} generates {speed:.1f} tokens a second: {listed}.",
        comparisons=comparisons,
        reasons=reasons(evidence, ratios),
        caveats=(*_caveats(setup, ratios), *_no_energy(evidence, setup, comparisons)),
    )


def _comparison(evidence: Evidence, ratio: Ratio) -> Comparison:
    interval = ratio.interval
    name = evidence.names.cell(ratio.baseline)
    return Comparison(
        baseline=name,
        ratio=f"{interval.value:.3f}",
        low="" if interval.low is None else f"{interval.low:.3f}",
        high="" if interval.high is None else f"{interval.high:.3f}",
        finding=ratio.finding,
        words=_words(ratio, name),
        pairs=interval.n,
        energy=_energy(evidence, ratio),
    )


def _energy(evidence: Evidence, ratio: Ratio) -> str:
    """Joules a token against the same baseline, by the first channel that saw both; solo runs where "
    "rounds have none."""
    for found in evidence.energy_ratios:
        one, other = found.candidate, found.baseline
        models = (one.model, other.model) == (ratio.candidate.model, ratio.baseline.model)
        if models and (one.dataset, one.setup) == (ratio.candidate.dataset, ratio.candidate.setup):
            interval = found.interval
            bounds = "" if interval.low is None else f" ({interval.low:.2f} to {interval.high:.2f})"
            sensor = f"{found.channel.quality.value}: {found.channel.scope}"
            return f"{interval.value:.2f} times its energy a token{bounds}, {sensor}"
    return ""


def _words(ratio: Ratio, name: str) -> str:
    value = ratio.interval.value
    match ratio.finding:
        case Finding.TOO_FEW:
            return f"{value:.2f} times the speed of {name}, from too few pairs to say more"
        case Finding.NO_DIFFERENCE:
            return (
                f"no difference from {name} was detected (one of {100 * (ratio.detectable or 0):.1f} % would have been)"
            )
        case Finding.FASTER if value >= 1.5:
            return f"{value:.2f} times as fast as {name}"
        case Finding.FASTER:
            return f"{100 * (value - 1):.1f} % faster than {name}"
        case _:
            return f"{100 * (1 - value):.1f} % slower than {name}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _no_energy(evidence: Evidence, setup: Setup, comparisons: Sequence[Comparison]) -> list[str]:
    """Whether cheaper could be told as well as faster."""
    if any(comparison.energy for comparison in comparisons):
        return []
    runs = (run for cell in evidence.timed if cell.cell.setup == setup for run in cell.runs)
    reasons = dict.fromkeys(run.why_no_power for run in runs if run.why_no_power)
    short = dict.fromkeys(reason.partition(":")[0] for reason in reasons)  # the energy table has them in full
    return [f"Energy was not measured here: {'; '.join(short) or 'no sensor gave a joule that can be believed'}."]


def _caveats(setup: Setup, ratios: Sequence[Ratio]) -> list[str]:
    """What keeps the reader from taking the sentence for more than it is."""
    cells = [cell for ratio in ratios for cell in (ratio.candidate, ratio.baseline)]
    said = []
    if setup.origin is not Origin.MEASURED:
        said.append(f"These records are {setup.origin.value}: nothing was measured, and no claim is touched by them.")
    if setup.engine is EngineKind.FAKE:
        said.append("A fake engine stood in for llama.cpp: the numbers show that the bundle works, and nothing else.")
    if any("tiny" in cell.model.variant for cell in cells):
        said.append("The models are tiny stand-ins of the same architectures: this run shows that every stage works.")
    elif any(cell.model.weights is Weights.PROXY for cell in cells):
        said.append(
            "Measured with proxies: files of the real shapes and types with random values. They show speed and memory, "
            "not text, and satisfy no claim about the released weights."
        )
    if setup.environment is EnvironmentKind.CONTAINER:
        said.append("Every worker ran in a container of its own.")
    return said
