"""What tasks.py calls: one function a command, options to structs, errors to exit codes once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BundleError, ConfigError, EnvironmentLacking, ExitCode, RunsFailed, UsageError
from harness.options import AUTO, StudyOptions, checked_host, choice
from harness.terms import RunKind
from harness.units import human_bytes, human_duration

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
REPEAT = "the report lists them with reasons; --retry measures them once more"


def run(command: Callable[[], None]) -> None:
    """Call a command; an error of the tree becomes its message and its exit code."""
    try:
        command()
    except ConfigError as error:
        for fault in error.faults:
            _say(f"{error.where}: {fault}")
        sys.exit(int(error.exit_code))
    except BundleError as error:
        _say(str(error))
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        _say("stopped at once; finished runs are kept")
        sys.exit(int(ExitCode.INTERRUPTED))


def _say(text: str) -> None:
    from rich.console import Console  # noqa: PLC0415

    Console(stderr=True, soft_wrap=True).print(text, style="bold red", markup=False, highlight=False)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - `invoke --list` draws nothing

    return Console(soft_wrap=True, highlight=False)


def reproduce(options: StudyOptions) -> None:
    """Measure, then report; the report is written even when runs failed."""
    started_s = time.monotonic()
    console = _console()
    failed = _measure(options, console, ())
    _report([options.out], options.out, console)
    took = human_duration(time.monotonic() - started_s)
    console.print(f"report: {options.out / 'report.html'} ({took} in all)", markup=False)
    if failed:
        raise RunsFailed(f"{failed} runs failed", where=str(options.out), cure=REPEAT)


def bench(options: StudyOptions, kinds: tuple[RunKind, ...]) -> None:
    """Measure only the experiments of some kinds."""
    failed = _measure(options, _console(), kinds)
    if failed:
        raise RunsFailed(f"{failed} runs failed", where=str(options.out), cure=REPEAT)


def _measure(options: StudyOptions, console: Console, kinds: tuple[RunKind, ...]) -> int:
    from harness.cli_progress import WeightsProgress  # noqa: PLC0415
    from harness.study import prepare  # noqa: PLC0415 - a report needs nothing of the study
    from harness.study.conduct import Watchers, conduct  # noqa: PLC0415
    from harness.study.progress import RichProgress  # noqa: PLC0415
    from harness.study.site import open_site  # noqa: PLC0415
    from harness.study.store import Store  # noqa: PLC0415

    with closing(open_site(ROOT, options, lambda line: console.print(line, markup=False))) as site:
        drafted = prepare.draft(ROOT, options, kinds, site)
        with closing(Store.open(options.out, resume=options.resume, retry=options.retry)) as store:
            for notice in store.notices:
                console.print(notice, markup=False)
            with WeightsProgress(console) as weights:
                watchers = Watchers(weights=weights, study=RichProgress(console))
                failed = conduct(ROOT, options, drafted, store, watchers, site)
            if disturbed := len(store.disturbed):
                console.print(f"{disturbed} runs were disturbed and count for no speed: {REPEAT}", markup=False)
            return failed


def plan(options: StudyOptions, *, as_json: bool) -> None:
    """The ordered cells, expected minutes and bytes; runs nothing."""
    import json  # noqa: PLC0415

    from harness.study import prepare  # noqa: PLC0415

    drafted = prepare.draft(ROOT, options)
    minutes = prepare.planned_minutes(drafted)
    rows = [
        {
            "order": cohort.order,
            "experiment": cohort.experiment.name,
            "block": cohort.block,
            "rounds": cohort.experiment.rounds,
            "minutes": round(prepare.expected_s(cohort) / 60, 2),
            "cells": [cell.label for cell in cohort.cells],
        }
        for cohort in drafted.plan.cohorts
    ]
    if as_json:
        total = {"suite": options.suite, "device": drafted.plan.device.value, "minutes": round(minutes, 1)}
        print(json.dumps({**total, "weight_bytes": drafted.weight_bytes, "cohorts": rows}, indent=1))  # noqa: T201
        return
    console = _console()
    for cohort in drafted.plan.cohorts:
        cells = ", ".join(cell.label for cell in cohort.cells)
        what = f"{cohort.experiment.name}, pass {cohort.block + 1}, {cohort.experiment.rounds} rounds"
        console.print(f"{cohort.order + 1:3}. {what}: {cells}", markup=False)
    size = human_bytes(drafted.weight_bytes)
    console.print(f"about {minutes:.0f} min, {size} of weights", markup=False)


def fetch(names: Sequence[str]) -> None:
    """Download released weights."""
    from harness.cli_progress import WeightsProgress  # noqa: PLC0415
    from harness.models import fetch as fetching  # noqa: PLC0415
    from harness.models import registry  # noqa: PLC0415

    known = registry.load(ROOT)
    models = tuple(known.get(name) for name in names) or known.with_weights()
    console = _console()
    with WeightsProgress(console) as progress:
        done = fetching.fetch(models, registry.models_dir(ROOT), progress=progress)
    for one in done:
        console.print(f"{one.state.value:9} {one.file}", markup=False)


def verify(*, as_json: bool, models_dir: str) -> None:
    """Stream every checksum; a missing file is told, a wrong one ends with exit code 4."""
    import msgspec  # noqa: PLC0415

    from harness.models import checksums, registry  # noqa: PLC0415

    known = registry.load(ROOT)
    folder = Path(models_dir) if models_dir else registry.models_dir(ROOT)
    if models_dir and not folder.is_dir():
        raise UsageError("no such folder", where=models_dir, cure="give the folder of the .gguf files")
    verdicts = checksums.verify(known.with_weights(), folder, rehash=True)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(verdicts), indent=1).decode())  # noqa: T201
    else:
        console = _console()
        for verdict in verdicts:
            console.print(f"{verdict.state.value:9} {verdict.file}", markup=False)
    checksums.require(verdicts)


def proxy(*, model: str, quant: str, experts: int, used: int, clone: str, out: str) -> None:
    """Write an architecture-faithful GGUF."""
    from harness.cli_progress import WeightsProgress  # noqa: PLC0415
    from harness.models import clone as cloning  # noqa: PLC0415
    from harness.models import proxy as writing  # noqa: PLC0415
    from harness.models import registry, shapes  # noqa: PLC0415

    if not out or bool(model) == bool(clone):
        raise UsageError("name a model (--model M) or a file (--clone FILE), and --out", where="proxy")
    if experts < 0 or used < 0:
        raise UsageError("counts are at least 1", where="--experts, --used")
    console = _console()
    with WeightsProgress(console) as progress:
        progress.step(out)
        if clone:
            made = cloning.clone(Path(clone), out=Path(out), progress=progress.bytes_done)
        else:
            shape = shapes.of(registry.load(ROOT).get(model))
            if experts or used:
                shape = shapes.varied(shape, experts=experts or None, used=used or None)
            made = writing.write(shape, quant, out=Path(out), progress=progress.bytes_done)
    console.print(f"{made.path}: {human_bytes(made.size_bytes)}, {made.parameters_total / 1e9:.2f} B parameters")
    console.print(f"sha256 {made.sha256}")


def report(data: Sequence[str], out: str, *, compare: tuple[str, ...] = (), salvage: bool = False) -> None:
    """Tables, figures and claims from records alone; of two datasets also the ratios of the second over the first."""
    if (data or salvage) and compare:
        raise UsageError("stands by itself", where="--compare", cure="report --compare A B --out DIR")
    data = data or compare
    if not data or not out:
        raise UsageError("name the data (--data DIR_OR_JSONL) and a folder (--out DIR)", where="report")
    if salvage:
        _salvage([Path(one) for one in data], Path(out))
        return
    _report([Path(one) for one in data], Path(out), _console())


def _report(data: Sequence[Path], out: Path, console: Console) -> None:
    from harness.report.render import write_report  # noqa: PLC0415 - pandas loads only where it is used

    summary = write_report(data, out)
    for line in (*summary.answers, *summary.comparisons, *summary.lines):
        console.print(line, markup=False)


def _salvage(data: Sequence[Path], out: Path) -> None:
    from harness.study.store import RUNS, salvage  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    target = out / RUNS
    if target.exists():
        raise UsageError("exists already", where=str(target), cure="choose another --out")
    for path in data:
        kept, dropped = salvage(path / RUNS if path.is_dir() else path, target)
        _console().print(f"{path}: {kept} records kept, {dropped} lines dropped, written to {target}", markup=False)


def claims(data: Sequence[str], *, as_json: bool) -> None:
    """A verdict per claim."""
    from harness.analysis.claims import CLAIMS_FILE, load_claims  # noqa: PLC0415
    from harness.analysis.evidence import Evidence  # noqa: PLC0415
    from harness.analysis.judge import judge, to_json  # noqa: PLC0415

    if not data:
        raise UsageError("name the data (--data DIR_OR_JSONL)", where="claims")
    verdicts = judge(Evidence.of([Path(one) for one in data]), load_claims(ROOT / CLAIMS_FILE))
    if as_json:
        print(to_json(verdicts).decode())  # noqa: T201
        return
    console = _console()
    for verdict in verdicts:
        console.print(verdict.line, markup=False)


def release(data: Sequence[str], out: str, title: str, *, check: bool) -> None:
    """Make a released dataset, or check one."""
    from harness.report import release as releasing  # noqa: PLC0415

    if not data or not (check or (out and title)):
        raise UsageError("name the data, and --check or --out and --title", where="release")
    console = _console()
    if check:
        for folder in data:
            console.print(f"{folder}: {releasing.check(Path(folder))} records, every byte as released", markup=False)
        return
    releasing.write([Path(one) for one in data], Path(out), title)
    console.print(f"{out}: {releasing.check(Path(out))} records", markup=False)


def docs(*, check: bool) -> None:
    """Write ARTIFACT.md from claims and suites, or say that it is not what they give."""
    from harness.cli_docs import artifact_page  # noqa: PLC0415
    from harness.report.artifact_page import PAGE  # noqa: PLC0415

    text, path = artifact_page(ROOT), ROOT / PAGE
    if not check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        raise UsageError("is not what claims and suites give", where=PAGE, cure="run ./artifact docs")
    _console().print(f"{PAGE}: up to date", markup=False)


def doctor(device: str, *, as_json: bool) -> None:
    """What this machine has, lacks, and how to mend it; exit code 3 when something needed is lacking."""
    from harness.study import doctor as examining  # noqa: PLC0415

    checks = examining.doctor(ROOT, device)
    if as_json:
        print(examining.as_json(checks).decode())  # noqa: T201
    else:
        console = _console()
        for check in checks:
            cure = f" -> {check.cure}" if check.cure else ""
            console.print(f"{check.state.value:8} {check.name}: {check.found}{cure}", markup=False)
    if not examining.sound(checks):
        raise EnvironmentLacking(
            "something that the study needs is lacking", where="doctor", cure="see the lines above"
        )


def build(
    device: str, *, wheelhouse: str, base: str, index_url: str, ca_bundle: str, native: bool, host: str = ""
) -> None:
    """Build a device's image and print its digest; macOS has no image, its environment is `.venv`."""
    from harness.study import detect_device  # noqa: PLC0415
    from harness.study.environments import image_build  # noqa: PLC0415 - docker loads only where it is used
    from harness.study.environments.images import BuildOptions  # noqa: PLC0415
    from harness.terms import DeviceKind  # noqa: PLC0415

    if checked_host(host) and device == AUTO:
        raise UsageError("name the host's device", where="--device", cure="cpu, cuda or jetson")
    kind = detect_device.detect() if device == AUTO else choice(DeviceKind, device, "--device", also=AUTO)
    if kind is DeviceKind.MAC:
        raise UsageError("macOS gives containers no Metal", where="build", cure="./artifact has made .venv already")
    options = BuildOptions(
        wheelhouse=Path(wheelhouse) if wheelhouse else None,
        base=base,
        index_url=index_url,
        ca_bundle=Path(ca_bundle) if ca_bundle else None,
        native=native,
    )
    console = _console()
    digest = image_build.build(ROOT, kind, options, lambda line: console.print(line, markup=False), host)
    console.print(digest, markup=False)


def build_llama_bench() -> None:
    """Compile llama-bench from the pinned source distribution, with the library's own flags."""
    from importlib.metadata import version  # noqa: PLC0415

    from harness.pins import LLAMA_CPP_COMMITS  # noqa: PLC0415
    from harness.study.llama_bench_build import build_llama_bench  # noqa: PLC0415

    console = _console()
    commit = LLAMA_CPP_COMMITS[version("llama-cpp-python")]
    folder = ROOT / ".cache" / "llama-bench"
    program = build_llama_bench(ROOT, commit, folder, lambda line: console.print(line, markup=False))
    console.print(f"{program}", markup=False)


def crosscheck(llama_bench: str, options: StudyOptions, rounds: int) -> None:
    """The same cells through llama-bench, in turn; ratios with intervals."""
    from harness.analysis.crosscheck import lines  # noqa: PLC0415
    from harness.cli_progress import WeightsProgress  # noqa: PLC0415
    from harness.study.crosscheck import crosscheck as checking  # noqa: PLC0415

    if not llama_bench:
        raise UsageError("name the program", where="--llama-bench", cure="./artifact build-llama-bench makes one")
    if rounds < 0:
        raise UsageError("is at least 1", where="--rounds")
    console = _console()
    with WeightsProgress(console) as progress:
        say = lambda line: console.print(line, markup=False)  # noqa: E731
        found = checking(ROOT, Path(llama_bench), options, progress, say, rounds)
    for line in lines(found):
        console.print(line, markup=False)
    console.print(f"{options.out / 'crosscheck.json'}", markup=False)
