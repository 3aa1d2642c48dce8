"""The report of many runs: time and memory of 10,000 and 100,000 runs, the cost growing no faster than the data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from records_at_scale import many

pytestmark = pytest.mark.torture

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "import resource, sys; from pathlib import Path; from harness.report.render import write_report;"
    "write_report([Path(sys.argv[1])], Path(sys.argv[2])); used = resource.getrusage(resource.RUSAGE_SELF);"
    "unit = 1 if sys.platform == 'darwin' else 1024; print(used.ru_utime + used.ru_stime, used.ru_maxrss * unit)"
)


@pytest.mark.parametrize(
    ("runs", "power", "seconds", "peak_bytes"),
    [(10_000, False, 10, 500_000_000), (10_000, True, 10, 500_000_000), (100_000, False, 60, 1_500_000_000)],
)
def test_a_report_of_many_runs(tmp_path: Path, runs: int, power: bool, seconds: float, peak_bytes: float) -> None:
    data = many(tmp_path / "data", runs, power=power)
    command = [sys.executable, "-c", CODE, str(data), str(tmp_path / "out")]
    start = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    wall = time.monotonic() - start
    cpu, peak = map(float, done.stdout.split())
    assert cpu <= seconds, f"{wall:.1f} s on the clock"
    assert peak <= peak_bytes
