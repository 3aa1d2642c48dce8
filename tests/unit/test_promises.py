"""A test that CI promised fails where it would be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TESTS = """
import pytest
pytestmark = pytest.mark.filterwarnings("ignore")

@pytest.mark.docker
@pytest.mark.skipif({lacking}, reason="not installed: dockerd")
def test_promised():
    pass

@pytest.mark.skip(reason="no nvcc")
def test_not_promised():
    pass

@pytest.mark.docker
def test_skips_inside():
    if {lacking}:
        pytest.skip("no engine")
"""


@pytest.mark.parametrize(
    ("promise", "lacking", "code", "words"),
    [
        ("", True, 0, "3 skipped"),
        ("docker", False, 0, "2 passed, 1 skipped"),
        ("docker", True, 1, "1 failed, 1 skipped, 1 error"),
        ("llama docker", False, 1, "MOE_PROMISED: no test of llama passed"),
    ],
)
def test_what_was_promised_is_run_or_fails(tmp_path: Path, promise: str, lacking: bool, code: int, words: str) -> None:
    (tmp_path / "test_x.py").write_text(TESTS.format(lacking=lacking))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    docker: x\n    llama: x\n")
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "promises",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            "-rf",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(FIXTURES), "MOE_PROMISED": promise},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, words in ran.stdout) == (code, True), ran.stdout + ran.stderr
    assert ("promises docker: not installed: dockerd" in ran.stdout.replace("Skipped: ", "")) is (code == 1 and lacking)
