"""Claims as configs/claims.toml states them: a sentence, a formula over records, a tolerance, a scope."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import ConfigError
from harness.records import Struct
from harness.terms import DeviceKind, Weights

CLAIMS_FILE = Path("configs") / "claims.toml"


class Origin(StrEnum):
    """Whose claim it is."""

    PAPER = "paper"
    BUNDLE = "bundle"


class FormulaName(StrEnum):
    """What is computed over records; `harness.analysis.formulas` has one function each."""

    DECODE_RATIO = "decode_ratio"
    ENERGY_RATIO = "energy_ratio"
    MEMORY_OF_CEILING = "memory_of_ceiling"
    ROUTING_SHARE = "routing_share"
    TOTAL_OVER_ACTIVE = "total_over_active"
    ROUTING_OF_GAP = "routing_of_gap"
    PROXY_OVER_RELEASED = "proxy_over_released"
    PROFILE_ADDITIVITY = "profile_additivity"
    LLAMA_BENCH_RATIO = "llama_bench_ratio"
    HARNESS_OVERHEAD = "harness_overhead"
    SAMPLER_COST = "sampler_cost"
    WAITING_CPU = "waiting_cpu"


class Tolerance(Struct, frozen=True):
    """The band in which the whole interval must lie for the claim to be reproduced, and why it is so wide."""

    low: float
    high: float
    reason: Annotated[str, Meta(min_length=1)]


class Direction(Struct, frozen=True):
    """On which side of `null` the claim lies; judged alone where the machine is not the claim's."""

    side: Annotated[str, Meta(pattern="^(above|below)$")]
    null: float

    def holds(self, value: float) -> bool:
        """True when `value` lies on the claimed side."""
        return value > self.null if self.side == "above" else value < self.null


class Scope(Struct, frozen=True):
    """Of which machine and weights the claim speaks; null or empty: of any."""

    device: DeviceKind | None = None
    host: str = ""  # must stand in the name of the accelerator or the CPU
    power_mode: str = ""
    weights: Weights | None = None


class Experiment(Struct, frozen=True):
    """How the evidence is made."""

    command: str
    hardware: str


class Claim(Struct, frozen=True):
    """One claim."""

    sentence: Annotated[str, Meta(min_length=1)]
    origin: Origin
    source: str
    formula: FormulaName
    formula_text: Annotated[str, Meta(min_length=1)]
    tolerance: Tolerance
    experiment: Experiment
    scope: Scope = Scope()
    direction: Direction | None = None
    must_hold: float | None = None  # a value that the interval must include besides: no difference was detected
    candidate: str = ""
    baseline: str = ""
    published: float | None = None
    unit: str = ""


class ClaimsFile(Struct, frozen=True):
    """configs/claims.toml."""

    claims: dict[str, Claim]


class Verdict(StrEnum):
    """What the data say of a claim."""

    REPRODUCED = "reproduced"
    DIRECTION_ONLY = "direction_only"
    NOT_REPRODUCED = "not_reproduced"
    NOT_RUN = "not_run"
    NOT_COMPARABLE = "not_comparable"

    @property
    def words(self) -> str:
        """For people."""
        return self.value.replace("_", " ")


class ClaimVerdict(Struct, frozen=True):
    """A claim, judged."""

    id: str
    sentence: str
    origin: Origin
    source: str
    verdict: Verdict
    reason: str
    published: float | None
    unit: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    tolerance_low: float
    tolerance_high: float
    tolerance_reason: str
    setup: str
    watermarks: tuple[str, ...]
    run_ids: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for a terminal."""
        return f"{self.id}  {self.verdict.words}: {self.reason}"


def load_claims(path: Path) -> dict[str, Claim]:
    """All claims by id, in the order of the file.

    Raises:
        ConfigError: faults of the file; all of them are listed.
    """
    claims = read_toml(path, ClaimsFile).claims
    faults = [
        f"claims.{id_}.tolerance: low {claim.tolerance.low} is not below high {claim.tolerance.high}"
        for id_, claim in claims.items()
        if claim.tolerance.low >= claim.tolerance.high
    ]
    if faults:
        raise ConfigError(faults, where=str(path))
    return claims
