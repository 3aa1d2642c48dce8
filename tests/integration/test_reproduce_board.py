"""`reproduce` on the emulated board: joules of the report against the scripted curve, a killed server, no claim."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jetson_board
import msgspec
import pytest

from harness.analysis.claims import ClaimVerdict, Verdict
from harness.analysis.claims import Origin as ClaimOrigin
from harness.analysis.energy_truth import Readings
from harness.analysis.energy_windows import Curve
from harness.records import Burst, Record, decode, encode
from harness.report.render import ReportSummary, write_report
from harness.terms import BurstKind, Ending, Origin, RunKind, TaintKind, Weights

pytestmark = [pytest.mark.jetson, pytest.mark.llama]

REPOSITORY = Path(__file__).resolve().parents[2]
# Runs the study; with a name of a record file as second argument the server dies 2 s after the first record is there.
DRIVER = """
import os, signal, sys, threading, time
from pathlib import Path
from harness import cli
from harness.options import study_options
root, suite, out, kill = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "kill"
def assassin():
    records = Path(out) / "runs.jsonl"
    while not (records.exists() and records.stat().st_size):
        time.sleep(0.05)
    time.sleep(2.0)
    os.killpg(int(os.environ["JETSON_BOARD_SERVER"]), signal.SIGKILL)
if kill:
    threading.Thread(target=assassin, daemon=True).start()
cli.ROOT = root
asked = study_options(device="jetson", suite=suite, weights="proxy", out=out, env="native", resume=False)
cli.run(lambda: cli.reproduce(asked))
"""


@dataclass(frozen=True)
class Study:
    """What a study on the board left behind."""

    exit_code: int
    records: tuple[Record, ...]
    out: Path
    output: str


def reproduce(folder: Path, *, kill: bool = False) -> Study:
    """The smoke suite on a board of its own."""
    if reason := jetson_board.lacking():
        pytest.skip(reason)
    root, tree, out = folder / "checkout", folder / "tree", folder / "out"
    for name in ("harness", "requirements", "checksums", "pyproject.toml"):
        root.mkdir(exist_ok=True)
        (root / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    tree.mkdir()
    command = [sys.executable, "-c", DRIVER, str(root), "smoke", str(out), "kill" if kill else "live"]
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests/fixtures'}"
    done = subprocess.run(
        jetson_board.board_command(tree, command),
        env=os.environ | {"PYTHONPATH": path, "MOE_BUNDLE_MODELS": str(folder / "models")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    lines = (out / "runs.jsonl").read_bytes().splitlines() if (out / "runs.jsonl").exists() else []
    return Study(done.returncode, tuple(map(decode, lines)), out, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def energetic(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return reproduce(tmp_path_factory.mktemp("energetic"))


@pytest.fixture(scope="module")
def clean(energetic: Study, tmp_path_factory: pytest.TempPathFactory) -> ReportSummary:
    """Report of the same records without the taints that neighbours of this test caused."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "runs.jsonl").write_bytes(b"".join(encode(without_neighbours(one)) for one in energetic.records))
    return write_report([folder / "runs.jsonl"], folder / "report")


@pytest.fixture(scope="module")
def robbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return reproduce(tmp_path_factory.mktemp("robbed"), kill=True)


def without_neighbours(record: Record) -> Record:
    """Other programs of the machine that runs this test do not change joules under a scripted curve."""
    kept = tuple(taint for taint in record.taints if taint.kind is TaintKind.SENSOR_LOST)
    return msgspec.structs.replace(record, taints=kept)


def truth_j_per_token(records: Sequence[Record]) -> tuple[float, int]:
    """Integral of the scripted curve over the records' own decode windows, over their tokens; and windows left out.

    A busy machine may starve the sampler: a window that its readings do not cover counts on neither side.
    """
    windows: list[Burst] = []
    left_out = 0
    for record in records:
        assert record.measured
        assert record.telemetry
        rail = next(channel for channel in record.telemetry.channels if channel.name == "VDD_IN")
        curve = Curve(Readings.of(rail))
        bursts = [burst for burst in record.measured.bursts if burst.kind is BurstKind.DECODE]
        good = curve.windows([burst.start_ns for burst in bursts], [burst.end_ns for burst in bursts]).good
        windows += [burst for burst, covered in zip(bursts, good, strict=True) if covered]
        left_out += int((~good).sum())
    energy_mj: float = sum(jetson_board.curve_mj(burst.start_ns, burst.end_ns) for burst in windows)
    return energy_mj / 1000 / sum(burst.tokens for burst in windows), left_out


def is_of(record: Record, shown: str) -> bool:
    """Whether a row of the report, by the model's name in it, speaks of this record's model."""
    return shown.lower().startswith(record.spec.model.name)


def paper_verdicts(verdicts: Sequence[ClaimVerdict]) -> dict[str, Verdict]:
    return {verdict.id: verdict.verdict for verdict in verdicts if verdict.origin is ClaimOrigin.PAPER}


def test_joules_of_the_report_agree_with_the_scripted_curve(energetic: Study, clean: ReportSummary) -> None:
    assert energetic.exit_code == 0, energetic.output
    with (clean.html.parent / "tables/energy.csv").open(newline="") as file:
        every = [row for row in csv.DictReader(file) if row["channel"] == "VDD_IN" and row["kind"] == "decode"]
    rows = [row for row in every if row["experiment"] == "energy"]
    assert len(rows) == 2
    for row in rows:
        mine = [one for one in energetic.records if is_of(one, row["model"]) and one.spec.experiment == "energy"]
        truth, left_out = truth_j_per_token(mine)
        assert int(row["windows_left_out"]) == left_out < 3
        assert row["source"] == "jtop"
        assert "emulated" in row["marks"]
        assert float(row["gross_low_j_per_token"]) <= truth <= float(row["gross_high_j_per_token"])
        assert float(row["error_percent"]) < 10
        assert float(row["gross_j_per_token"]) == pytest.approx(truth, rel=float(row["error_percent"]) / 100)


def test_bursts_of_milliseconds_give_no_joule_and_say_why(clean: ReportSummary) -> None:
    """The other experiments of the suite: the sensor is renewed ten times a second, a burst is over before that."""
    with (clean.html.parent / "tables/energy.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["channel"] == "VDD_IN" and row["experiment"] == "headline"]
    assert rows
    for row in rows:
        assert row["gross_j_per_token"] == ""
        assert row["remark"].startswith("no joule: short_window: windows of 0.0")
        assert "are shorter than 5 sensor updates" in row["remark"]


def test_a_rail_that_never_moves_is_refused_by_name(clean: ReportSummary) -> None:
    with (clean.html.parent / "tables/energy.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["channel"] == "VDD_SOC"]
    assert rows
    assert all(row["gross_j_per_token"] == "" and "constant" in row["remark"] for row in rows)


def test_the_board_satisfies_no_claim_even_with_plain_released_weights(energetic: Study, tmp_path: Path) -> None:
    def plain(record: Record) -> Record:
        model = msgspec.structs.replace(record.spec.model, variant="", weights=Weights.RELEASED)
        spec = msgspec.structs.replace(record.spec, model=model)
        return msgspec.structs.replace(without_neighbours(record), spec=spec)

    data = tmp_path / "runs.jsonl"
    data.write_bytes(b"".join(encode(plain(record)) for record in energetic.records))
    seen = {verdict.id: verdict for verdict in write_report([data], tmp_path / "report").verdicts}
    for claim in ("C2", "C3"):
        assert seen[claim].value is not None
        assert seen[claim].verdict is Verdict.NOT_COMPARABLE
        assert seen[claim].reason.startswith("emulated records satisfy no claim. ")


def test_records_of_the_board_are_emulated_and_satisfy_no_claim(energetic: Study, robbed: Study) -> None:
    for study in (energetic, robbed):
        assert study.records, study.output
        assert {record.origin for record in study.records} == {Origin.EMULATED}
        assert {record.provenance.power_mode for record in study.records} == {"nvpmodel 15W"}
        assert {record.spec.device.value for record in study.records} == {"jetson"}
        verdicts = paper_verdicts(write_report([study.out], study.out / "again").verdicts)
        assert len(verdicts) == 7
        assert Verdict.REPRODUCED not in verdicts.values()
        assert Verdict.DIRECTION_ONLY not in verdicts.values()


def test_a_server_killed_mid_run_taints_and_the_matrix_goes_on(robbed: Study) -> None:
    assert robbed.exit_code == 0, robbed.output
    assert len(robbed.records) == 17
    assert {record.termination.ending for record in robbed.records} == {Ending.OK}
    assert {record.spec.kind for record in robbed.records} == {
        RunKind.ROUNDS,
        RunKind.SOLO,
        RunKind.PROFILE,
        RunKind.ROUTING,
    }
    lost = [r for r in robbed.records if any(taint.kind is TaintKind.SENSOR_LOST for taint in r.taints)]
    assert lost
    last = robbed.records[-1].telemetry
    assert last is not None
    assert last.absent["jtop"].startswith("lost: ")
    assert "VDD_IN" not in {channel.name for channel in last.channels}
    assert (robbed.out / "report.html").stat().st_size > 10_000
