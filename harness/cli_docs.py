"""What ARTIFACT.md is made of: claims, and what suites and commands cost by the plan's own estimates."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.analysis.claims import CLAIMS_FILE, Claim, load_claims
from harness.errors import ConfigError
from harness.models import registry, texts
from harness.report.artifact_page import Cost, SuiteLine, artifact_text
from harness.study import config, plan, prepare, weights
from harness.study.config import Experiment, Suite
from harness.terms import DeviceKind, RunKind, Weights

FIRST = ("smoke", "quick", "paper", "full")  # in the order in which a reader meets them; the others follow by name
MACHINES = {  # that the estimates are for: what is free of the memory shapes the plan
    DeviceKind.CPU: plan.Machine(threads=2, memory_available_bytes=24_000_000_000),
    DeviceKind.CUDA: plan.Machine(threads=2, memory_available_bytes=24_000_000_000),
    DeviceKind.JETSON: plan.Machine(threads=6, memory_available_bytes=7_000_000_000),
    DeviceKind.MAC: plan.Machine(threads=8, memory_available_bytes=12_000_000_000),
}
KINDS = {  # experiments that a command runs; of all kinds where it is not named here
    "bench": (RunKind.ROUNDS, RunKind.SOLO),
    "profile": (RunKind.PROFILE, RunKind.ROUTING, RunKind.BANDWIDTH),
}
DEFAULT_SUITE = {"crosscheck": "crosscheck"}  # of the others: quick
MEASURED = ("crosscheck",)  # llama-bench's side is no part of the plan: the suite's own figure counts


def artifact_page(root: Path) -> str:
    """Text of ARTIFACT.md for the checkout at `root`; the same on every machine.

    Raises:
        ConfigError: faults in claims, suites or models.
    """
    found = sorted(path.stem for path in (root / "configs" / "suites").glob("*.toml"))
    names = sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    claims = load_claims(root / CLAIMS_FILE)
    costs = {id_: claim_cost(root, claim) for id_, claim in claims.items()}
    return artifact_text(claims, costs, [_suite_line(root, name) for name in names])


def claim_cost(root: Path, claim: Claim) -> Cost:
    """What the command of a claim's experiment takes."""
    program, task, *words = shlex.split(claim.experiment.command)
    if program != "./artifact":
        raise ConfigError([f"{claim.experiment.command!r} is no command of ./artifact"], where=str(CLAIMS_FILE))
    options = dict(zip(words[::2], words[1::2], strict=True))
    device = DeviceKind(options.get("--device", DeviceKind.CPU))
    return cost(root, options.get("--suite", DEFAULT_SUITE.get(task, "quick")), device, KINDS.get(task, ()))


def cost(root: Path, name: str, device: DeviceKind = DeviceKind.CPU, kinds: Sequence[RunKind] = ()) -> Cost:
    """Machine time, disk and memory of a suite, or of its experiments of some kinds, by its plan."""
    profile = config.load_device(root, device.value)
    suite = _runnable(root, config.load_suite(root, name), profile.default_weights, kinds)
    size_of = functools.cache(functools.partial(weights.planned_bytes, registry.load(root)))
    planned = plan.build(name, suite, profile, profile.default_weights, MACHINES[device], size_of)
    seconds = sum(map(prepare.expected_s, planned.cohorts))
    return Cost(
        minutes=suite.minutes if suite.tiny or name in MEASURED else max(1, round(seconds / 60)),
        weight_bytes=sum(size_of(key) for key in planned.model_keys()),
        memory_bytes=round(max(plan.resident_bytes(cohort.cells, size_of) for cohort in planned.cohorts)),
    )


def _runnable(root: Path, suite: Suite, chosen: Weights, kinds: Sequence[RunKind]) -> Suite:
    """Experiments of the kinds asked for; on text only where weights have a vocabulary, with every prompt by its id."""
    known = tuple(prompt.prompt_id for prompt in texts.load(root))
    kept = (one for one in suite.experiments if not kinds or one.kind in kinds)
    able = (one for one in kept if not one.prompts or (one.weights or chosen) is Weights.RELEASED)
    return msgspec.structs.replace(suite, experiments=tuple(_with_prompts(one, known) for one in able))


def _with_prompts(experiment: Experiment, known: tuple[str, ...]) -> Experiment:
    return msgspec.structs.replace(experiment, prompts=known) if experiment.prompts == ("all",) else experiment


def _suite_line(root: Path, name: str) -> SuiteLine:
    suite = config.load_suite(root, name)
    experiments = tuple(experiment.name for experiment in suite.experiments)
    return SuiteLine(name=name, title=suite.title, cost=cost(root, name), experiments=experiments)
