"""The report in a real Chromium: no console error, no request, no overflow, sortable and dark where asked."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import extensions
import pytest
import records_factory as factory
from lab_hosts import JETSON_HOST
from records_factory import Lab

from harness.report.render import write_report

pytestmark = pytest.mark.chromium

BROWSER = "not an origin"  # how the log of the network calls what no page asked for
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
COLLECT = """<script>window.faults = []; addEventListener("error", (e) => faults.push(e.message));
addEventListener("securitypolicyviolation", (e) => faults.push(e.violatedDirective + " " + e.blockedURI));</script>"""
PROBE = """<script>
const wide = (all) => { document.body.classList.toggle("wide", all); return document.documentElement.scrollWidth; };
const table = document.querySelector("#table-throughput table");
const heads = [...table.tHead.rows[0].cells];
const place = heads.findIndex((head) => head.textContent.startsWith("Decode"));
const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[place].dataset.v));
const press = () => {
  heads[place].querySelector("button").click();
  return [heads[place].getAttribute("aria-sort"), column()];
};
const facts = {
  resources: performance.getEntriesByType("resource").map((entry) => entry.name), inner: innerWidth,
  narrow: wide(false), all: wide(true), ascending: press(), descending: press(),
  background: getComputedStyle(document.body).backgroundColor,
  focusable: [...document.querySelectorAll("th button, summary, .scroll, nav a, input")].every((e) => e.tabIndex === 0),
  named: [...document.querySelectorAll("[role=img],[role=region]")].every((e) => e.getAttribute("aria-labelledby")
    .split(" ").every((id) => document.getElementById(id))),
  text: Math.min(...[...document.querySelectorAll("figure svg text")].map((e) => e.getBoundingClientRect().height)),
};
parent.postMessage({...facts, faults}, "*");
</script>"""
# Chromium's own window is never narrower than 500 pixels: a frame is.
FRAME = """<!doctype html><title>frame</title><link rel="icon" href="data:,"><body style="margin:0">
<script>addEventListener("message", (e) => { document.body.dataset.facts = JSON.stringify(e.data); });</script>
<iframe src="PAGE" style="border:0;width:WIDTHpx;height:1200px"></iframe>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with long names and many columns, with a probe at its end."""
    folder = tmp_path_factory.mktemp("report")
    lab = Lab(rounds=12)
    long = factory.Model(
        "a-model-with-an-unusually-long-name-of-its-own", "llama", 900_700_000, 9, 9, 25_000_000, 900_000_000
    )
    records = [*factory.rounds(lab, (*factory.FOUR, long)), *factory.solos(lab.with_(experiment="memory"))]
    records += extensions.extensions(lab)
    other = factory.study(lab.with_(host=JETSON_HOST))
    data = [
        factory.write(folder / "one", records, not_run={"r1": "needs " + "x" * 200}),
        factory.write(folder / "two", other),
    ]
    write_report(data, folder / "out")
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    probed = folder / "probed.html"
    changed = text.replace("<head>", "<head>" + COLLECT, 1).replace("</body>", PROBE + "</body>", 1)
    probed.write_text(changed, encoding="utf-8")
    return probed


def chromium(page: Path, folder: Path, width: int = 1400, *options: str) -> tuple[dict[str, Any], str, set[str]]:
    """Facts that the probe found, the console, and every address that the page (not the browser itself) asked for."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium here: apt-get install chromium"
    net_log = folder / "net.json"
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)), encoding="utf-8")
    own = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}", "--enable-logging=stderr", "--dump-dom")
    command = [program, *QUIET, *own, *options, frame.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-facts="([^"]*)"', done.stdout)
    assert found, done.stderr
    requests = [event.get("params", {}) for event in json.loads(net_log.read_text(encoding="utf-8"))["events"]]
    addresses = {r["url"] for r in requests if "url" in r and r.get("initiator", BROWSER) != BROWSER}
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console, addresses


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize(("scheme", "background"), [("1", "rgb(253, 252, 250)"), ("0", "rgb(21, 23, 26)")])
def test_the_page_behaves(page: Path, tmp_path: Path, width: int, scheme: str, background: str) -> None:
    setting = f"--blink-settings=preferredColorScheme={scheme}"
    facts, console, addresses = chromium(page, tmp_path, width, setting)
    assert facts["faults"] == []
    assert console == ""
    own = {page.as_uri(), (tmp_path / "frame.html").as_uri()}
    assert {address for address in addresses if not address.startswith("data:")} <= own
    assert facts["resources"] == []
    assert facts["inner"] == width
    assert facts["narrow"] <= width
    assert facts["all"] <= width
    assert facts["background"] == background
    assert facts["focusable"]
    assert facts["named"]
    assert facts["text"] >= 9
    direction, values = facts["ascending"]
    assert direction == "ascending"
    assert values == sorted(values)
    direction, values = facts["descending"]
    assert direction == "descending"
    assert values == sorted(values, reverse=True)


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium here: apt-get install chromium"
    pdf = tmp_path / "report.pdf"
    command = [program, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) >= 3


def test_a_request_of_the_page_would_be_seen(page: Path, tmp_path: Path) -> None:
    """The check above can fail: without the page's own policy an image from elsewhere is asked for."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    leaky = tmp_path / "leaky.html"
    leaky.write_text(
        text.replace("<main>", '<main><img src="http://outside.invalid/a.png" alt="">', 1), encoding="utf-8"
    )
    _, _, addresses = chromium(leaky, tmp_path)
    assert "http://outside.invalid/a.png" in addresses
