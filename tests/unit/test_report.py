"""The report: bytes, formats, refusals, and nothing half-written."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
import records_factory as factory
from golden_report import DATA, GOLDEN, report_files
from lab_hosts import CPU_HOST, JETSON_HOST
from records_factory import Lab

from harness.analysis.tables.base import Column, Row, Style, make
from harness.errors import ExitCode, IntegrityError, UsageError
from harness.records import Host, Taint
from harness.report import formats
from harness.report.render import TEMPLATES, csv_text, write_report
from harness.terms import DeviceKind, TaintKind

ROOT = Path(__file__).resolve().parents[2]
SMALL = Lab(rounds=8, cohorts=2, decode_tokens=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.write(tmp_path_factory.mktemp("data") / "set", factory.study(SMALL))


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_report([data], folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_golden_files_agree_byte_for_byte() -> None:
    made = report_files(DATA)
    kept = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()}
    assert set(made) == kept
    different = [name for name, text in made.items() if (GOLDEN / name).read_bytes() != text.encode()]
    assert different == [], "regenerate with: python tests/fixtures/golden_report.py"


def test_shuffled_lines_in_another_folder_give_the_same_bytes(data: Path, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    lines = (data / "runs.jsonl").read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    (other / "runs.jsonl").write_bytes(b"".join(lines))
    (other / "dataset.json").write_bytes((data / "dataset.json").read_bytes())
    write_report([other], tmp_path / "out")
    assert digests(tmp_path / "out") == digests(out)


def test_locale_time_zone_and_hash_seed_have_no_effect(data: Path, out: Path, tmp_path: Path) -> None:
    code = (
        "import locale, sys; from pathlib import Path; locale.setlocale(locale.LC_ALL, '');"
        "from harness.report.render import write_report; write_report([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    setting = {"LC_ALL": "C", "LANG": "de_DE.UTF-8", "TZ": "Pacific/Apia", "PYTHONHASHSEED": "4242", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(data), str(tmp_path / "out")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **setting})
    assert digests(tmp_path / "out") == digests(out)


def test_every_file_of_the_contract_is_there(out: Path) -> None:
    names = set(digests(out))
    assert {"report.html", "report.md"} <= names
    tables = {Path(name).stem for name in names if name.endswith(".csv")}
    assert tables == {Path(name).stem for name in names if name.endswith(".tex")}
    wanted = {
        "models",
        "devices",
        "throughput",
        "latency",
        "memory",
        "ratios",
        "router_overhead",
        "context",
        "quantization",
        "sparsity",
        "routing",
        "memory_ceiling",
        "proxy_validity",
        "claims",
        "provenance",
        "excluded",
    }
    assert wanted <= tables
    assert {"figures/ratios.svg", "figures/speed-active-bytes.svg", "figures/speed-total-bytes.svg"} <= names


def test_summary_has_one_line_a_claim_and_the_answer(data: Path, tmp_path: Path) -> None:
    summary = write_report([data], tmp_path)
    assert [line.split()[0] for line in summary.lines] == [verdict.id for verdict in summary.verdicts]
    assert "1.97 times as fast as Gemma-2-2B" in summary.answers[0]
    assert all(path.is_file() for path in summary.paths)
    assert summary.html == tmp_path / "report.html"


class Page(HTMLParser):
    """Checks that tags are balanced and collects what matters."""

    VOID = ("meta", "link", "input", "br", "img", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        if values.get("href", "").startswith("#"):
            self.targets.append(values["href"][1:])
        self.loaded += [values[name] for name in ("src", "href", "action", "poster") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def test_html_is_one_balanced_page_that_loads_nothing(out: Path) -> None:
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    assert [link for link in page.loaded if not link.startswith(("#", "data:"))] == []
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_figures_are_well_formed_with_a_text_alternative_and_tooltips(out: Path) -> None:
    for path in (out / "figures").glob("*.svg"):
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        space = "{http://www.w3.org/2000/svg}"
        assert root.get("role") == "img"
        assert root.find(f"{space}title") is not None
        description = root.find(f"{space}desc")
        assert description is not None
        assert "OLMoE-1B-7B" in (description.text or "")
        tips = [tip.text or "" for mark in root.iter() if mark is not root for tip in mark.findall(f"{space}title")]
        assert any("Llama-3.2-1B" in tip for tip in tips)


def test_watermarks_stand_in_every_row_figure_and_claim(out: Path) -> None:
    for name in ("models", "throughput", "latency", "memory", "ratios", "quality"):
        rows = rows_of(out / "tables" / f"{name}.csv")
        assert rows
        assert all(row["marks"] == "synthetic proxy" for row in rows)
    for path in (out / "figures").glob("*.svg"):
        assert "synthetic · proxy" in path.read_text(encoding="utf-8")
    html = (out / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<tr class="marked">', html)) >= 20
    assert html.count('<span class="mark">proxy</span>') >= 3
    assert "synthetic, proxy" in (out / "tables" / "ratios.tex").read_text(encoding="utf-8")
    assert "synthetic, proxy" in (out / "report.md").read_text(encoding="utf-8")


def test_tables_without_data_say_why(out: Path) -> None:
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "Not measured: no run was profiled." in html
    assert "% not measured: no run was profiled" in (out / "tables" / "router_overhead.tex").read_text(encoding="utf-8")
    assert "Not measured: no run was profiled." in (out / "report.md").read_text(encoding="utf-8")


def test_excluded_runs_are_listed_with_their_reason(tmp_path: Path) -> None:
    taint = Taint(kind=TaintKind.SWAPPED, detail="swap rose by 4 MB <script>")
    records = [*factory.rounds(SMALL), *factory.solos(SMALL.with_(experiment="memory", taints=(taint,)))]
    write_report([factory.write(tmp_path / "data", records, not_run={"r9": "needs containers"})], tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tainted: swapped" in html
    assert "not run: needs containers" in html
    assert "17 planned runs (16 recorded) = 8 counted + 9 left out" in html


def test_a_report_of_nothing_says_why(tmp_path: Path) -> None:
    taint = Taint(kind=TaintKind.FOREIGN_LOAD, detail="others used 1.6 cores")
    summary = write_report([factory.write(tmp_path / "data", factory.study(SMALL.with_(taints=(taint,))))], tmp_path)
    assert summary.answers == ()
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Left out: 16 runs tainted: foreign_load (others used 1.6 cores)." in html
    memory = rows_of(tmp_path / "tables" / "memory.csv")
    assert len(memory) == 4


def test_what_records_say_cannot_become_markup(tmp_path: Path) -> None:
    nasty = factory.Model("a|b<i>_$&%{\\", "x<script>alert(1)</script>", 9, 9, 9, 30_000_000, 9)
    host = Host(**{**{f: getattr(CPU_HOST, f) for f in CPU_HOST.__struct_fields__}, "cpu_model": "<b>&"})
    records = list(factory.rounds(SMALL.with_(host=host), (factory.OLMOE, nasty)))
    write_report([factory.write(tmp_path / "data", records)], tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<i>" not in html.lower()
    assert "<script>alert" not in html
    assert "<b>" not in html
    page = Page()
    page.feed(html)
    assert page.open == []
    for path in (tmp_path / "figures").glob("*.svg"):
        ET.fromstring(path.read_text(encoding="utf-8"))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "a|b" not in markdown.lower()
    assert r"\%\{\textbackslash{}" in (tmp_path / "tables" / "models.tex").read_text(encoding="utf-8")


def test_two_datasets_stand_side_by_side(data: Path, tmp_path: Path) -> None:
    faster = SMALL.with_(host=JETSON_HOST, device=DeviceKind.JETSON)
    other = factory.write(tmp_path / "other", factory.study(faster))
    write_report([data, other], tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "tables" / "compare.csv")
    decode = [row for row in rows if row["quantity"] == "decode" and row["experiment"] == "headline"]
    assert len(decode) == 4
    assert {row["finding"] for row in decode} == {"no difference detected"}
    assert (tmp_path / "out" / "figures" / "ratios-2.svg").is_file()


def test_the_same_dataset_twice_differs_in_nothing(data: Path, tmp_path: Path) -> None:
    write_report([data, data], tmp_path)
    rows = rows_of(tmp_path / "tables" / "compare.csv")
    assert {row["ratio"] for row in rows} == {"1"}


def test_an_out_that_cannot_be_written_is_refused(data: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_report([data], blocked)
    assert caught.value.exit_code is ExitCode.USAGE
    assert blocked.read_text() == "mine"


def test_a_broken_line_leaves_an_earlier_report_alone(data: Path, tmp_path: Path) -> None:
    write_report([data], tmp_path / "out")
    before = digests(tmp_path / "out")
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes((data / "runs.jsonl").read_bytes() + b"{\n")
    with pytest.raises(IntegrityError, match="line 17"):
        write_report([broken], tmp_path / "out")
    assert digests(tmp_path / "out") == before


def test_a_report_that_fails_in_writing_leaves_no_staging_behind(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(UsageError):
        write_report([data], tmp_path)
    assert (tmp_path / "tables").read_text() == "in the way"
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_stale_figures_go_and_foreign_files_stay(data: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("<svg/>")
    write_report([data, data], tmp_path)
    assert (tmp_path / "figures" / "ratios-2.svg").is_file()
    write_report([data], tmp_path)
    assert (tmp_path / "figures" / "ratios.svg").is_file()
    assert (tmp_path / "figures" / "mine.svg").is_file()
    assert not (tmp_path / "figures" / "ratios-2.svg").exists()


def test_templates_refuse_a_missing_number() -> None:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    assert "undefined=jinja2.StrictUndefined" in (ROOT / "harness/report/render.py").read_text(encoding="utf-8")
    with pytest.raises(jinja2.UndefinedError):
        environment.from_string("{{ report.nothing }}").render(report=object())
    assert TEMPLATES.is_dir()


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (None, Style.COUNT, "\u2013"),
        (1234567, Style.COUNT, "1,234,567"),
        (32.218, Style.SIGNIFICANT3, "32.2"),
        (0.01234, Style.SIGNIFICANT3, "0.0123"),
        (0.0, Style.SIGNIFICANT3, "0"),
        (1280.4, Style.SIGNIFICANT3, "1,280"),
        (0.0123, Style.PERCENT, "1.2"),
        (0.00612, Style.PERCENT, "0.61"),
        (0.0, Style.PERCENT, "0"),
        (4_211_743_360, Style.BYTES_GB, "4.212"),
        (31_045_086.5, Style.NS_AS_MS, "31.0"),
        (0.97319, Style.RATIO, "0.973"),
    ],
)
def test_values_are_written_for_people(value: float | None, style: Style, text: str) -> None:
    assert formats.shown(value, Column(key="x", title="x", style=style)) == text


def test_csv_holds_full_values_and_units_in_its_header() -> None:
    columns = (Column(key="model", title="M"), Column(key="decode_ns", title="D", style=Style.NS_AS_MS, unit="ms"))
    table = make(
        "t", "T", columns, [Row(values=('a"b, c', 31_045_086.512345)), Row(values=("d", None), marks=("proxy",))]
    )
    assert list(csv.reader(io.StringIO(csv_text(table)))) == [
        ["model", "decode_ns", "marks"],
        ['a"b, c', "31045086.51", ""],
        ["d", "", "proxy"],
    ]


def test_columns_without_any_value_are_left_out() -> None:
    columns = (Column(key="a", title="A"), Column(key="b", title="B"))
    assert [c.key for c in make("t", "T", columns, [Row(values=("x", None))]).columns] == ["a"]
    assert len(make("t", "T", columns, [], absent="why").columns) == 2
