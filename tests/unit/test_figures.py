"""Figures: each has tooltips and a text alternative where its data are there, and its reason where they are not."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import extensions
import pytest
import records_factory as factory
from records_factory import Lab

from harness.analysis.evidence import Evidence
from harness.analysis.figures import MODULES, Drawn, draw
from harness.analysis.figures.base import Figure
from harness.analysis.figures.decode_step import PARTS
from harness.analysis.figures.growth import fitted_tokens_per_s, levels
from harness.analysis.growth import growths
from harness.terms import NodeCategory

SPACE = "{http://www.w3.org/2000/svg}"
LAB = Lab(rounds=8, cohorts=2, decode_tokens=8, noise=0.005)
IDS = {"ratios", "memory", "speed-active-bytes", "speed-total-bytes", "roofline", "decode-step", "speed-depth"}
IDS |= {"growth-sparsity", "routing-map"}

OTHER_DATA = {
    "no experiment ran a model with and without a memory limit"
}  # needs an experiment that these records do not hold


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    records = [*factory.study(LAB), *extensions.extensions(LAB)]
    return Evidence.of([factory.write(tmp_path_factory.mktemp("data"), records)])


@pytest.fixture(scope="module")
def drawn(evidence: Evidence) -> Drawn:
    return draw(evidence)


def figure(drawn: Drawn, id_: str) -> Figure:
    return next(one for one in drawn.figures if one.id == id_)


def tips(one: Figure) -> list[str]:
    """Tooltips of all marks."""
    root = ET.fromstring(one.standalone)
    return [tip.text or "" for mark in root.iter() if mark is not root for tip in mark.findall(f"{SPACE}title")]


def description(one: Figure) -> str:
    return ET.fromstring(one.standalone).findtext(f"{SPACE}desc") or ""


def test_every_figure_is_drawn_where_its_data_are(drawn: Drawn) -> None:
    assert {one.id for one in drawn.figures} == IDS
    assert {one.reason for one in drawn.missing} <= OTHER_DATA


@pytest.mark.parametrize("id_", sorted(IDS))
def test_every_figure_has_tooltips_a_text_alternative_and_its_watermark(drawn: Drawn, id_: str) -> None:
    one = figure(drawn, id_)
    assert len(tips(one)) >= 2
    assert "OLMoE-1B-7B" in description(one)
    assert re.search(r"\d", description(one))
    assert "synthetic · proxy" in one.standalone
    assert one.caption.endswith(".")


def test_figures_without_data_are_absent_with_their_reason(tmp_path: Path) -> None:
    llama = [record for record in factory.rounds(LAB) if record.spec.model.name == "llama-3.2-1b"]
    found = draw(Evidence.of([factory.write(tmp_path, llama)]))
    assert found.figures == ()
    assert [one.title for one in found.missing] == [module.TITLE for module in MODULES]
    assert all(one.reason for one in found.missing)


def test_a_decode_step_shows_every_category_once() -> None:
    shown = [category for part in PARTS for category in part.categories]
    assert sorted(shown) == sorted(NodeCategory)


def test_a_decode_step_adds_up_and_stands_beside_the_other_model(drawn: Drawn) -> None:
    one = figure(drawn, "decode-step")
    for model, total_ms in (("OLMoE-1B-7B", 31.0), ("Llama-3.2-1B", 30.0)):
        parts = [float(found[1]) for tip in tips(one) if (found := re.match(rf"{model}: .* ([\d.]+) ms", tip))]
        assert sum(parts) == pytest.approx(total_ms, rel=0.03)
    assert "router 0.9" in description(one) or "router 1" in description(one)


def test_the_routing_map_has_a_mark_a_layer_and_expert(drawn: Drawn) -> None:
    one = figure(drawn, "routing-map")
    found = [tip for tip in tips(one) if tip.startswith("layer ")]
    assert len(found) == 4 * 16
    assert "layer 0, expert 15: 0.00 \u00d7 even" in found
    assert f"Never selected: {sum('0.00' in tip for tip in found)} of 64" in description(one)
    ratios = [float(re.findall(r": ([\d.]+) ", tip)[0]) for tip in found]
    assert sum(ratios) == pytest.approx(64, abs=0.4)


def test_the_growth_line_is_the_fit_and_its_slope_is_said(evidence: Evidence, drawn: Drawn) -> None:
    found = next(one for one in growths(evidence) if one.cells[0].experiment == "sparsity")
    assert [round(level.active_gb, 2) for level in levels(found.cells)] == [0.8, 0.35]
    assert fitted_tokens_per_s(found, 4.211, 0.8) == pytest.approx(1e9 / 28e6, rel=0.01)
    assert fitted_tokens_per_s(found, 1.3, 0.35) == pytest.approx(1e9 / 15e6, rel=0.03)
    assert found.ns_per_total_gb is not None
    said = f"{found.ns_per_total_gb.value / 1e6:.3g} ms a token (95 % interval"
    assert said in figure(drawn, "growth-sparsity").caption


def test_the_roofline_says_both_bounds_of_a_moe_model(drawn: Drawn) -> None:
    text = description(figure(drawn, "roofline"))
    assert re.match(r"Bandwidth 34(\.\d)? GB/s\.", text)
    moe = re.search(r"OLMoE-1B-7B: \S+ tokens/s where active bytes allow (\S+), total bytes (\S+)\.", text)
    assert moe
    assert float(moe[1]) == pytest.approx(34 / 0.808, rel=0.02)
    assert float(moe[2]) == pytest.approx(34 / 4.211, rel=0.02)
    assert re.search(r"Llama-3.2-1B: \S+ tokens/s where active bytes allow \S+\. ", text)
