"""Data from strangers: whatever stands in records and settings, it is taken, or there is one clear refusal."""

from __future__ import annotations

import gzip
import html.parser
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import poison
import pytest
from golden_report import DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import limits, records
from harness.analysis.claims import CLAIMS_FILE, load_claims
from harness.analysis.evidence import Evidence
from harness.analysis.load import load, read_plan
from harness.config_tables import read_toml
from harness.errors import BundleError, ConfigError, IntegrityError
from harness.records import Record
from harness.report.context import Context
from harness.report.render import files
from harness.study.config import Suite
from harness.study.store import read_info

ROOT = Path(__file__).resolve().parents[2]
LINES = (DATA / "runs.jsonl").read_bytes().splitlines()
TOML = (ROOT / "configs" / "suites" / "quick.toml").read_text(encoding="utf-8")
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES: list[Any] = [
    0, -1, 1, 2**31, 2**63, 10**30, 1.5, 1e308, 5e-324, "", "<script>", "\u202e", "../..", None, True, [], {}, [[]],
]  # fmt: skip


def decoded(line: bytes) -> Record | None:
    """A record, or None where the line was refused; any other outcome fails the test."""
    try:
        return records.decode(line)
    except ValueError:
        return None


def refusal_of(work: Callable[[], object]) -> str | None:
    """The message of an error that a user can act on; any other error fails the test."""
    try:
        work()
    except BundleError as error:
        return str(error)
    return None


@BOUNDED
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(line: bytes) -> None:
    assert decoded(line) is None


@BOUNDED
@given(
    line=st.sampled_from(LINES),
    place=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 40),
    filling=st.binary(max_size=12),
)
def test_a_line_with_a_changed_stretch_is_a_record_or_refused(
    line: bytes, place: float, length: int, filling: bytes
) -> None:
    start = int(place * len(line))
    record = decoded(line[:start] + filling + line[start + length :])
    if record is not None:
        assert records.decode(records.encode(record)) == record


@pytest.mark.parametrize(
    "line",
    [
        b'{"spec":' + b"[" * 200_000,
        b'{"spec":{"schema":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
        b'{"spec":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"spec":{"schema":1' + b"0" * 100_000 + b"}}",
    ],
    ids=["open", "lists", "objects", "digits"],
)
def test_a_bomb_of_json_is_refused(tmp_path: Path, line: bytes) -> None:
    assert decoded(line) is None
    (tmp_path / "runs.jsonl").write_bytes(line + b"\n")
    with pytest.raises(BundleError, match="line 1"):
        load([tmp_path])


NAME = re.compile(rb'("name":")')
UTF8 = NAME.sub(b"\\1\xff", LINES[1], count=1)  # bytes that are no text, where a text stands


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    assert decoded(UTF8) is None
    (tmp_path / "runs.jsonl").write_bytes(LINES[0] + b"\n" + UTF8 + b"\n")
    with pytest.raises(IntegrityError, match="line 2: not a record: "):
        load([tmp_path])


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"schema":1,"suite":"\xff"}', b"[" * 200_000, b'{"schema":' + b"1" * 9000 + b"}", b'{"schema":NaN}'],
    ids=["empty", "cut", "bytes", "bomb", "digits", "nan"],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "runs.jsonl").write_bytes(LINES[0] + b"\n")
    (tmp_path / "dataset.json").write_bytes(text)
    for reader in (read_plan, read_info):
        with pytest.raises(BundleError, match=r"dataset\.json"):
            reader(tmp_path)


@pytest.mark.parametrize("name", ["runs.jsonl", "runs.jsonl.gz"])
def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(limits.numbered, "__defaults__", (1_000_000,))
    data = LINES[0] + b"\n" + b"0" * 50_000_000
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    with pytest.raises(IntegrityError, match="line 2 is longer than 1 MB"):
        load([tmp_path])


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 10**400])
def test_a_number_that_no_column_takes_is_refused_with_its_line(tmp_path: Path, number: int) -> None:
    line, found = re.subn(rb'"engine_ns":\d+', b'"engine_ns":%d' % number, LINES[1])
    assert found
    (tmp_path / "runs.jsonl").write_bytes(LINES[0] + b"\n" + line + b"\n")
    with pytest.raises(IntegrityError, match="line 2: not a record: "):
        load([tmp_path])


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Places of a JSON value; of a list the first two items."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value[:2])
        for key, item in items:
            yield (*path, key)
            yield from paths_of(item, (*path, key))


@settings(BOUNDED, max_examples=20)
@given(data=st.data())
def test_a_record_with_any_value_anywhere_gives_a_report_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(LINES) - 1))
    changed = json.loads(LINES[number])
    *way, last = data.draw(st.sampled_from(list(paths_of(changed))))
    place = changed
    for key in way:
        place = place[key]
    place[last] = data.draw(st.sampled_from(VALUES))
    folder = tmp_path_factory.mktemp("changed")
    lines = [*LINES[:number], json.dumps(changed).encode(), *LINES[number + 1 :]]
    (folder / "runs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    refusal = refusal_of(lambda: files(Context(Evidence.of([folder]), load_claims(ROOT / CLAIMS_FILE))))
    assert refusal is None or str(folder) in refusal


class Elements(html.parser.HTMLParser):
    """Counts what a browser would see as elements and as handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.handlers += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]


def test_no_text_of_a_record_becomes_an_element_of_the_page(tmp_path: Path) -> None:
    data = {"plain": DATA, "poisoned": poison.dataset(DATA, tmp_path / "poisoned")}
    made = {
        name: files(Context(Evidence.of([folder]), load_claims(ROOT / CLAIMS_FILE))) for name, folder in data.items()
    }
    page = made["poisoned"]["report.html"]
    assert "alert(1)" in page  # it is shown, as text
    plain, hostile = Elements(made["plain"]["report.html"]), Elements(page)
    assert hostile.tags.get("script") == plain.tags.get("script")
    assert hostile.tags.get("img") == plain.tags.get("img")
    assert hostile.handlers == plain.handlers
    assert "{{7*7}}" in page  # nor is it a template
    assert made["poisoned"].keys() <= made["plain"].keys()  # nor part of a file's name
    for name, text in made["poisoned"].items():
        assert ".." not in name
        if name.endswith(".svg"):
            assert "<script>alert" not in text
        if name.endswith(".tex"):
            assert not re.search(r"(?<!\\textbackslash\{\})\\input\{x\}", text), name
        if name.endswith(".md"):
            assert not re.search(r"(?<!\\)<(script|img|title)", text)


@BOUNDED
@given(
    place=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 30),
    filling=st.text(max_size=12),
)
def test_settings_with_a_changed_stretch_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: float, length: int, filling: str
) -> None:
    start = int(place * len(TOML))
    path = tmp_path_factory.mktemp("suite") / "suite.toml"
    path.write_text(TOML[:start] + filling + TOML[start + length :], encoding="utf-8", errors="replace")
    refusal = refusal_of(lambda: read_toml(path, Suite))
    assert refusal is None or refusal.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, "a = " + "{b=" * 20_000, "title = 1" + "0" * 50_000, "[" * 10_000, "a." * 5_000 + "b = 1"],
    ids=["lists", "tables", "digits", "headers", "dots"],
)
def test_a_bomb_of_toml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.toml").write_text(text)
    with pytest.raises(ConfigError):
        read_toml(tmp_path / "suite.toml", Suite)
