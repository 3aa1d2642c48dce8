"""The shell blocks of the documents, executed as they stand by a shell in a checkout; the longer ones by `.ci/run`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import readme_blocks
from readme_blocks import RunBy

pytestmark = pytest.mark.llama

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {  # what each must leave behind
    "./artifact reproduce --suite smoke --out out-smoke": ("out-smoke/report.html", "out-smoke/SHA256SUMS"),
    "./artifact report --data data/linux-x86-2core --out out-report": ("out-report/report.html",),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that shows all of this checkout, its environments included, but keeps what a command writes."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith("out"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.mark.parametrize("command", readme_blocks.of(RunBy.HERE))
def test_a_block_runs_as_it_stands(checkout: Path, command: str) -> None:
    if "reproduce" in command and not (ROOT / ".venv" / "stamp").exists():
        pytest.skip("./artifact has not made its .venv here: it would compile llama.cpp for minutes first")
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=checkout,
        env={**environ, "MOE_BUNDLE_MODELS": str(checkout / "weights" / "models")},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "C7" in done.stdout
    for name in LEAVES[command]:
        assert (checkout / name).stat().st_size > 0
