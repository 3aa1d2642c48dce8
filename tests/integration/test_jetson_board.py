"""A real jtop server over a fake board, sampled by the real sampler process: joules against the scripted curve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jetson_board
import pytest

pytestmark = pytest.mark.jetson

REPOSITORY = Path(__file__).parents[2]

SAMPLE = """
import json, os, signal, sys, time
import jetson_board
from harness.analysis.energy import RunPower, Window, cell_energy
from harness.clock import now_ns
from harness.records import BurstKind
from harness.study.sampler import SamplerHandle
from harness.study.telemetry_taints import telemetry_taints
from harness.telemetry_protocol import Start
kill = "kill" in sys.argv
handle = SamplerHandle.start(Start())
start = now_ns()
time.sleep(3.0)
if kill:
    os.killpg(int(os.environ["JETSON_BOARD_SERVER"]), signal.SIGKILL)
time.sleep(5.0)
end = now_ns()
telemetry = handle.collect(start, end)
window = Window(kind=BurstKind.DECODE, start_ns=start + 500_000_000, end_ns=end - 500_000_000, tokens=100)
energy = cell_energy([RunPower(run_id="r", telemetry=telemetry, windows=(window,))])
keys = ("gross_mj", "error_mj", "updates")
figures = {f.channel.name: {key: getattr(f, key) for key in keys} for f in energy.figures}
print(json.dumps({
    "figures": figures,
    "truth_mj": jetson_board.curve_mj(window.start_ns, window.end_ns),
    "refusals": {r.channel.name: r.reason for r in energy.refusals},
    "taints": [t.kind for t in telemetry_taints(telemetry)],
    "sources": sorted({c.source for c in handle.ready.channels}),
    "scope": next(c.scope for c in handle.ready.channels),
    "absent": telemetry.absent,
    "alive_after": handle.collect(end, end + 1).period_ns,
}))
handle.stop()
"""


def on_board(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    reason = jetson_board.lacking()
    if reason:
        pytest.skip(reason)
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests/fixtures'}"
    done = subprocess.run(
        jetson_board.board_command(tmp_path, [sys.executable, "-c", SAMPLE, *arguments]),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_joules_agree_with_the_scripted_curve(tmp_path: Path) -> None:
    seen = on_board(tmp_path)
    figure = seen["figures"]["VDD_IN"]
    assert abs(figure["gross_mj"] - seen["truth_mj"]) <= figure["error_mj"] < 0.1 * figure["gross_mj"]
    assert figure["updates"] > 20
    assert seen["sources"][0] == "jtop"
    assert "VDD_IN" in seen["scope"]
    assert "constant" in seen["refusals"]["VDD_SOC"]  # a rail that never moves on this board: refused, not reported
    assert seen["taints"] == []
    assert not Path("/fake_sys").exists()
    assert not Path("/etc/nv_tegra_release").exists()


def test_a_server_killed_mid_run_taints_and_the_sampler_goes_on(tmp_path: Path) -> None:
    seen = on_board(tmp_path, "kill")
    assert seen["taints"]
    assert set(seen["taints"]) == {"sensor_lost"}
    assert "VDD_IN" not in seen["figures"]
    assert "not covered" in seen["refusals"]["VDD_IN"]
    assert seen["absent"]["jtop"].startswith("lost: ")
    assert seen["alive_after"] > 0


def test_curve_and_its_integral_agree() -> None:
    step_ns = 1_000_000
    start_ns, end_ns = 123_456_789_000, 131_000_000_000
    moments = range(start_ns, end_ns, step_ns)
    total_mj = sum(jetson_board.curve_mw(at_ns + step_ns // 2) for at_ns in moments) * step_ns / 1e9
    exact_mj = jetson_board.curve_mj(start_ns, moments[-1] + step_ns)
    assert total_mj == pytest.approx(exact_mj, rel=1e-6)
