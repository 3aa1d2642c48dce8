"""What ARTIFACT.md is made of: claims, and suites with the weights that their plans need."""

from __future__ import annotations

import functools
from pathlib import Path

from harness.analysis.claims import CLAIMS_FILE, load_claims
from harness.models import registry
from harness.report.artifact_page import SuiteLine, artifact_text
from harness.study import config, plan, weights
from harness.terms import DeviceKind

FIRST = ("smoke", "quick", "paper", "full")  # in the order in which a reader meets them; the others follow by name
REFERENCE = plan.Machine(threads=2, memory_available_bytes=24_000_000_000)


def artifact_page(root: Path) -> str:
    """Text of ARTIFACT.md for the checkout at `root`; the same on every machine.

    Raises:
        ConfigError: faults in claims, suites or models.
    """
    found = sorted(path.stem for path in (root / "configs" / "suites").glob("*.toml"))
    names = sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return artifact_text(load_claims(root / CLAIMS_FILE), [_suite_line(root, name) for name in names])


def _suite_line(root: Path, name: str) -> SuiteLine:
    suite = config.load_suite(root, name)
    device = config.load_device(root, DeviceKind.CPU.value)
    size_of = functools.partial(weights.planned_bytes, registry.load(root))
    planned = plan.build(name, suite, device, device.default_weights, REFERENCE, size_of)
    return SuiteLine(
        name=name,
        title=suite.title,
        minutes=suite.minutes,
        weight_bytes=sum(size_of(key) for key in planned.model_keys()),
        experiments=tuple(experiment.name for experiment in suite.experiments),
    )
