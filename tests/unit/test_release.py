"""Released data: what is written is whole, the same each time, and one flipped byte anywhere is found."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path

import jsonschema
import msgspec
import pytest
import records_factory as factory

from harness.errors import IntegrityError, UsageError
from harness.report import release
from harness.terms import Ending

GOLDEN = Path(__file__).parents[1] / "golden" / "dataset"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    release.write([GOLDEN], tmp_path / "data", "A test")
    return tmp_path / "data"


def test_a_release_passes_its_check_and_is_the_same_each_time(released: Path, tmp_path: Path) -> None:
    lines = (GOLDEN / "runs.jsonl").read_bytes().count(b"\n")
    assert release.check(released) == lines
    release.write([GOLDEN], tmp_path / "again", "A test")
    for name in (*release.PARTS, release.SUMS):
        assert (released / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_one_flipped_byte_anywhere_fails(released: Path) -> None:
    draw = random.Random(1)
    for name in (*release.PARTS, release.SUMS):
        path = released / name
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(8))}:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(IntegrityError):
                release.check(released)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (release.RUNS, gzip.compress(b"")[:-9]),
        (release.RUNS, b"no gzip"),
        (release.RUNS, gzip.compress(b"[" * 100_000 + b"\n")),
        (release.RUNS, gzip.compress(b'{"spec":{"schema":1,"run_id":"\xff"}}\n')),
        (release.SCHEMA, b"\xff"),
    ],
    ids=["cut", "no gzip", "bomb", "no text", "no schema"],
)
def test_what_is_no_release_is_refused_even_where_its_sums_fit(released: Path, name: str, content: bytes) -> None:
    (released / name).write_bytes(content)
    sums = [f"{hashlib.sha256((released / part).read_bytes()).hexdigest()}  {part}\n" for part in sorted(release.PARTS)]
    (released / release.SUMS).write_text("".join(sums))
    with pytest.raises(IntegrityError):
        release.check(released)


def test_a_missing_file_fails(released: Path) -> None:
    (released / "dataset.json").unlink()
    with pytest.raises(IntegrityError, match=r"dataset\.json"):
        release.check(released)


def test_records_fit_the_published_schema(released: Path) -> None:
    schema = json.loads((released / release.SCHEMA).read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for line in gzip.decompress((released / release.RUNS).read_bytes()).splitlines():
        validator.validate(json.loads(line))


def test_every_field_stands_in_the_readme(released: Path) -> None:
    text = (released / release.README).read_text()
    names = {name for _, name, _, _ in release.fields()}
    assert {"token_ns", "vm_hwm_bytes", "selected", "parameters_active"} <= names
    assert all(f"`{name}`" in text for name in names)


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two of the datasets"):
        release.write([GOLDEN, GOLDEN], tmp_path / "x", "A test")


def test_a_run_that_was_tried_again_is_released_with_all_its_attempts(tmp_path: Path) -> None:
    first, *others = factory.study(factory.Lab(rounds=3, cohorts=1))
    ended = msgspec.structs.replace(first.termination, ending=Ending.CRASH)
    failed = msgspec.structs.replace(first, measured=None, termination=ended)
    folder = factory.write(tmp_path / "data", [failed, first, *others])
    release.write([folder], tmp_path / "released", "A test")
    assert release.check(tmp_path / "released") == len(others) + 2
