"""Records from strangers in a real Chromium: what looks like markup in a name stays text, and nothing of it runs."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import poison
import pytest
from golden_report import DATA

from harness.report.render import write_report

pytestmark = pytest.mark.chromium

LISTEN = """<script>window.ran = [];
for (const name of ["alert", "confirm", "prompt", "open"]) { window[name] = (...words) => { ran.push(name + words); }; }
</script>"""
COUNT = """<script>addEventListener("load", () => setTimeout(() => {
  const count = (what) => document.querySelectorAll(what).length;
  const handlers = [...document.querySelectorAll("*")].flatMap((e) => [...e.attributes])
    .filter((a) => a.name.startsWith("on")).length;
  document.body.dataset.facts = JSON.stringify({
    ran, handlers, scripts: count("script"), images: count("img"), bait: count("#bait"),
    lured: count("a[href^='javascript:']"), shown: document.body.textContent.includes("onerror=" + "alert(2)"),
  });
}, 300));</script>"""
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")


def facts_of(text: str, folder: Path) -> dict[str, Any]:
    """What a browser makes of a page."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium here: apt-get install chromium"
    folder.mkdir()
    page = folder / "page.html"
    probed = text.replace("<head>", "<head>" + LISTEN, 1)
    page.write_text(probed[: probed.rindex("</body>")] + COUNT + probed[probed.rindex("</body>") :], encoding="utf-8")
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom")
    done = subprocess.run(
        [program, *QUIET, *own, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'data-facts="([^"]*)"', done.stdout)
    assert found, done.stderr
    facts: dict[str, Any] = json.loads(html.unescape(found[1]))
    return facts


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The report of honest records, and of the same ones poisoned."""
    folder = tmp_path_factory.mktemp("pages")
    write_report([DATA], folder / "plain")
    write_report([poison.dataset(DATA, folder / "data")], folder / "hostile")
    return {name: (folder / name / "report.html").read_text(encoding="utf-8") for name in ("plain", "hostile")}


def test_nothing_of_a_stranger_runs_or_becomes_an_element(pages: dict[str, str], tmp_path: Path) -> None:
    plain, hostile = (facts_of(pages[name], tmp_path / name) for name in ("plain", "hostile"))
    assert hostile.pop("shown")  # as text
    assert not plain.pop("shown")
    assert hostile == plain
    assert plain["ran"] == []


@pytest.mark.parametrize("place", ["<main", "</title>"], ids=["in the page", "in the title"])
def test_the_check_sees_what_would_run(pages: dict[str, str], tmp_path: Path, place: str) -> None:
    """It can fail: the same payload, not escaped, is found by it."""
    plain = facts_of(pages["plain"], tmp_path / "plain")
    facts = facts_of(pages["plain"].replace(place, poison.PAYLOAD + place, 1), tmp_path / "leaky")
    assert facts["scripts"] > plain["scripts"]
    assert facts["images"] > plain["images"]
    assert facts["bait"] == facts["lured"] == 1
    assert facts["handlers"] >= plain["handlers"] + 2
