"""ARTIFACT.md from the claims and the suites: text out, nothing read but the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from harness.analysis.claims import Claim, FormulaName
from harness.analysis.claims import Origin as ClaimOrigin
from harness.records import Struct
from harness.report import formats
from harness.units import human_bytes

PAGE = "ARTIFACT.md"
TEMPLATES = Path(__file__).resolve().parents[2] / "reports" / "templates"
OUTPUTS = {  # where a reader finds the numbers behind a verdict, below the report's folder
    FormulaName.DECODE_RATIO: ("tables/ratios.csv", "figures/ratios.svg"),
    FormulaName.ENERGY_RATIO: ("tables/energy_ratios.csv", "tables/energy.csv"),
    FormulaName.MEMORY_OF_CEILING: ("tables/memory.csv", "figures/memory.svg"),
    FormulaName.ROUTING_SHARE: ("tables/router_overhead.csv",),
    FormulaName.TOTAL_OVER_ACTIVE: ("tables/sparsity.csv", "tables/growth.csv"),
    FormulaName.ROUTING_OF_GAP: ("tables/attribution.csv",),
    FormulaName.PROXY_OVER_RELEASED: ("tables/proxy_validity.csv",),
    FormulaName.PROFILE_ADDITIVITY: ("tables/attribution.csv",),
    FormulaName.LLAMA_BENCH_RATIO: ("tables/crosscheck.csv",),
    FormulaName.HARNESS_OVERHEAD: ("tables/quality.csv",),
    FormulaName.SAMPLER_COST: ("tables/sampler_cost.csv",),
    FormulaName.WAITING_CPU: ("tables/quality.csv",),
}


class Cost(Struct, frozen=True):
    """What a command takes, as its plan estimates."""

    minutes: int  # machine time
    weight_bytes: int  # of all models that it needs, on disk
    memory_bytes: int  # of the workers that are alive together

    @property
    def disk(self) -> str:
        """What the weights take."""
        return human_bytes(self.weight_bytes)

    @property
    def memory(self) -> str:
        """What the workers take together."""
        return human_bytes(self.memory_bytes)


class SuiteLine(Struct, frozen=True):
    """One row of the table of suites."""

    name: str
    title: str
    cost: Cost  # on 2 cores and 24 GB, with proxies
    experiments: tuple[str, ...]


class ClaimLine(Struct, frozen=True):
    """One row of the tables of claims."""

    id: str
    claim: Claim
    cost: Cost

    @property
    def outputs(self) -> str:
        """Files of the report's folder."""
        return ", ".join(f"`{path}`" for path in OUTPUTS[self.claim.formula])

    @property
    def band(self) -> str:
        """Tolerance as numbers."""
        tolerance = self.claim.tolerance
        published = "" if self.claim.published is None else f"{self.claim.published:g}; "
        return f"{published}{tolerance.low:g} to {tolerance.high:g}"


def artifact_text(claims: Mapping[str, Claim], costs: Mapping[str, Cost], suites: Sequence[SuiteLine]) -> str:
    """The page.

    Args:
        claims: by id, in the order of the file.
        costs: of each claim's experiment.
        suites: in the order in which they are to stand.
    """
    lines = tuple(ClaimLine(id=id_, claim=claim, cost=costs[id_]) for id_, claim in claims.items())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701 - Markdown; cells are escaped by the filter
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = formats.markdown
    return environment.get_template(f"{PAGE}.j2").render(
        paper=tuple(line for line in lines if line.claim.origin is ClaimOrigin.PAPER),
        bundle=tuple(line for line in lines if line.claim.origin is ClaimOrigin.BUNDLE),
        suites={suite.name: suite for suite in suites},
    )
