"""Bad input from the command line: one clear message, the right exit code, never a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records_factory import LLAMA, OLMOE, Lab, solos, write

from harness import cli, records
from harness.errors import ExitCode, Interrupted, RunsFailed
from harness.options import StudyOptions, study_options
from harness.records import Record
from harness.study import prepare

ROOT = Path(__file__).resolve().parents[2]
SOME: tuple[Record, ...] = tuple(solos(Lab(decode_tokens=4), models=(OLMOE, LLAMA)))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[], None]], tuple[int, str]]:
    """Runs a command that must fail; its exit code and what it told."""

    def run(command: Callable[[], None]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            cli.run(command)
        told = capsys.readouterr()
        assert "Traceback" not in told.err + told.out
        assert isinstance(caught.value.code, int)
        return caught.value.code, told.err.strip()

    return run


Fails = Callable[[Callable[[], None]], tuple[int, str]]


def options(out: Path | str = "", **changes: Any) -> StudyOptions:
    usual: dict[str, Any] = {"device": "cpu", "suite": "smoke", "weights": "proxy", "env": "native", "resume": False}
    return study_options(**(usual | changes), out=str(out), fake=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "smoky"}, "--suite: there is no suite 'smoky' -> did you mean 'smoke'? known: "),
        ({"suite": "../../etc/passwd"}, "--suite: there is no suite '../../etc/passwd' -> known: "),
        ({"device": "tpu"}, "--device: there is no device 'tpu' -> one of auto, cpu, cuda, jetson, mac"),
        ({"weights": "heavy"}, "--weights: 'heavy' is not known -> one of auto, released, proxy"),
        ({"env": "cloud"}, "--env: 'cloud' is not known -> one of native, container"),
    ],
)
def test_unknown_names(fails: Fails, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    code, told = fails(lambda: cli.reproduce(options(tmp_path / "out", **changes)))
    assert code == ExitCode.USAGE
    assert told.startswith(message)
    assert "\n" not in told
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_before_the_first_run_is_refused_at_once(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "RECORDS_BYTES", 2 * shutil.disk_usage(tmp_path).total)
    out = tmp_path / "out"
    code, told = fails(lambda: cli.reproduce(options(out)))
    assert code == ExitCode.ENVIRONMENT
    assert told.startswith(f"{out}: ")
    assert told.endswith(" needed -> free some space, then --resume; or choose an --out on another disk")
    assert (out / "runs.jsonl").read_bytes() == b""


def test_an_unknown_model_is_named_with_its_neighbour(fails: Fails) -> None:
    code, told = fails(lambda: cli.fetch(["olmoe"]))
    assert (code, told) == (2, "configs/models.toml: no model 'olmoe' -> did you mean olmoe-1b-7b?")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configuration that a test may spoil."""
    shutil.copytree(ROOT / "configs", tmp_path / "checkout" / "configs")
    monkeypatch.setattr(cli, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("rounds = -1", ["experiments.0.rounds (line 7): Expected `int` >= 1"]),
        ("decode_tokens = -5", ["experiments.0.decode_tokens (line 7): Expected `int` >= 0"]),
        ("decode_seconds = nan", ["experiments.0.decode_seconds"]),
        ('rounds = "many"', ["experiments.0.rounds (line 7): Expected `int`, got `str`"]),
        ("ruonds = 3", ["experiments.0.ruonds (line 7): unknown key, did you mean `rounds`?"]),
        ("rounds = 0\nblocks = 0", ["experiments.0.rounds (line 7)", "experiments.0.blocks (line 8)"]),
        ("rounds = ", ["not TOML: Invalid value (at line 7, column 10)"]),
        ("rounds = 3\nrounds = 4", ["not TOML: Cannot overwrite a value (at line 8"]),
    ],
)
def test_faults_of_a_suite_are_told_all_at_once(
    fails: Fails, checkout: Path, tmp_path: Path, text: str, faults: list[str]
) -> None:
    suite = 'title = "t"\nminutes = 1\n[[experiments]]\nname = "a"\ntitle = "a"\nkind = "rounds"\n'
    path = checkout / "configs" / "suites" / "mine.toml"
    path.write_text(f'{suite}{text}\nmodels = ["olmoe-1b-7b"]\n')
    code, told = fails(lambda: cli.reproduce(options(tmp_path / "out", suite="mine")))
    assert code == ExitCode.USAGE
    assert [line.startswith(f"{path}: {fault}") for line, fault in zip(told.splitlines(), faults, strict=True)], told
    assert not (tmp_path / "out").exists()


def test_a_suite_of_an_unknown_model_touches_nothing(fails: Fails, checkout: Path, tmp_path: Path) -> None:
    path = checkout / "configs" / "suites" / "smoke.toml"
    path.write_text(path.read_text().replace('"olmoe-1b-7b"', '"olmoe-1b-8b"'))
    code, told = fails(lambda: cli.reproduce(options(tmp_path / "out")))
    assert code == ExitCode.USAGE
    assert "no model 'olmoe-1b-8b' -> did you mean olmoe-1b-7b" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_made(fails: Fails, tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        wanted = StudyOptions(suite="smoke", device="cpu", out=out, resume=resume, fake=True)
        # a default, not a parameter
        code, told = fails(lambda wanted=wanted: cli.reproduce(wanted))  # type: ignore[misc]
        assert code == ExitCode.USAGE
        assert told.startswith(f"{out}: ")
        assert told.endswith("-> choose another --out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_use_needs_resume(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    code, told = fails(lambda: cli.reproduce(options(tmp_path)))
    assert code == ExitCode.USAGE
    assert told == f"{tmp_path}: the folder is not empty -> add --resume to go on, or choose another --out"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "wanted",
    [
        {"model": "", "clone": "", "out": "a.gguf"},
        {"model": "olmoe-1b-7b", "clone": "b.gguf", "out": "a.gguf"},
        {"model": "olmoe-1b-7b", "clone": "", "out": ""},
        {"model": "olmoe-1b-7b", "clone": "", "out": "a.gguf", "experts": -1},
        {"model": "olmoe-1b-7b", "clone": "", "out": "a.gguf", "used": -8},
        {"model": "nothing", "clone": "", "out": "a.gguf"},
    ],
)
def test_options_of_proxy_that_make_no_sense(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    usual: dict[str, object] = {"quant": "Q4_K_M", "experts": 0, "used": 0}
    code, told = fails(lambda: cli.proxy(**(usual | wanted)))  # type: ignore[arg-type]  # options by name
    assert code == ExitCode.USAGE
    assert "\n" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("data", "out"), [((), "out"), (("data",), "")])
def test_a_report_needs_data_and_a_folder(fails: Fails, data: tuple[str, ...], out: str) -> None:
    code, told = fails(lambda: cli.report(data, out, salvage=False))
    assert code == ExitCode.USAGE
    assert "--data" in told
    assert "--out" in told


def test_data_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    code, told = fails(lambda: cli.report([str(tmp_path / "nothing")], str(tmp_path / "out"), salvage=False))
    assert code == ExitCode.USAGE
    assert told.startswith(f"{tmp_path / 'nothing'}: no such file or folder")
    assert not (tmp_path / "out").exists()


def test_a_broken_line_is_named_and_salvage_keeps_the_others(fails: Fails, tmp_path: Path) -> None:
    data = write(tmp_path / "data", SOME)
    lines = (data / "runs.jsonl").read_bytes().splitlines(keepends=True)
    (data / "runs.jsonl").write_bytes(lines[0] + lines[1][:200] + b"\n" + b"".join(lines[2:]))
    code, told = fails(lambda: cli.report([str(data)], str(tmp_path / "out"), salvage=False))
    assert code == ExitCode.INTEGRITY
    assert told.startswith(f"{data}/runs.jsonl, line 2: not a record: ")
    cli.run(lambda: cli.report([str(data)], str(tmp_path / "whole"), salvage=True))
    kept = (tmp_path / "whole" / "runs.jsonl").read_bytes().splitlines(keepends=True)
    assert kept == [line for number, line in enumerate(lines) if number != 1]


def test_an_unknown_schema_is_named(fails: Fails, tmp_path: Path) -> None:
    newer = msgspec.structs.replace(SOME[0], spec=msgspec.structs.replace(SOME[0].spec, schema=7))
    (tmp_path / "runs.jsonl").write_bytes(records.encode(newer))
    code, told = fails(lambda: cli.claims([str(tmp_path)], as_json=False))
    assert code == ExitCode.USAGE
    assert f"{tmp_path}/runs.jsonl, line 1: schema version 7 is not known -> this bundle reads version 1" in told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (Interrupted("stopped on request"), ExitCode.INTERRUPTED),
        (RunsFailed("3 runs failed"), ExitCode.RUNS_FAILED),
    ],
)
def test_exit_codes(fails: Fails, error: BaseException, code: ExitCode) -> None:
    def command() -> None:
        raise error

    assert fails(command)[0] == code


def test_the_command_itself_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "invoke", "reproduce", "--suite", "smoky", "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("--suite: there is no suite 'smoky'")
    assert ran.stderr.count("\n") == 1
