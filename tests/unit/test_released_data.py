"""What is released with the bundle: whole, and the committed report is what it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report import release
from harness.report.render import write_report

ROOT = Path(__file__).parents[2]
DATASETS = sorted(path.parent for path in (ROOT / "data").glob("*/dataset.json"))


@pytest.mark.parametrize("folder", DATASETS, ids=lambda folder: folder.name)
def test_every_byte_is_as_released(folder: Path) -> None:
    assert release.check(folder) > 0


@pytest.mark.parametrize("folder", DATASETS, ids=lambda folder: folder.name)
def test_the_committed_report_is_what_the_data_give(folder: Path, tmp_path: Path) -> None:
    committed = ROOT / "reports" / folder.name
    written = write_report([folder], tmp_path).paths
    for path in written:
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (committed / name).read_bytes(), f"{name}: run ./artifact report again"


def test_there_is_released_data() -> None:
    assert DATASETS
