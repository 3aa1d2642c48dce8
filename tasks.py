"""The commands: thin, typed tasks for Invoke. `invoke --list` shows them, `invoke --help TASK` explains one."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from invoke.context import Context
from invoke.tasks import task

from harness.pair_option import TaskWithPair

DEVICE = "auto, cpu, cuda, jetson or mac"
SUITE = "smoke (1 min, tiny), quick (a quarter of an hour), paper, full, or another of configs/suites"
WEIGHTS = "auto, released (download, verify) or proxy (generate)"
OUT = "folder for the dataset and the report; default: out-SUITE"
ENV = "native, or container (one container a run)"
HOST = "ssh://user@board: plan here, measure there; given several times, all side by side"
RESUME = "go on with an interrupted study: run only what is not recorded yet"
RETRY = "--resume, and runs that failed or were disturbed are measured once more; their records stay"
STUDY_HELP = {
    "device": DEVICE,
    "suite": SUITE,
    "weights": WEIGHTS,
    "out": OUT,
    "env": ENV,
    "resume": RESUME,
    "retry": RETRY,
    "host": HOST,
}


@task(iterable=["host"], help=STUDY_HELP)
def reproduce(
    c: Context,
    device: str = "auto",
    suite: str = "quick",
    weights: str = "auto",
    out: str = "",
    env: str = "native",
    resume: bool = False,
    retry: bool = False,
    host: Iterable[str] | None = None,
) -> None:
    """Get the weights, measure everything, write the report: the main job."""
    from harness import cli, cli_hosts, options

    asked = options.Asked(device=device, suite=suite, weights=weights, out=out, env=env, resume=resume, retry=retry)
    cli.run(lambda: cli_hosts.on_each("reproduce", asked, tuple(host or ()), cli.reproduce))


@task(iterable=["host"], help=STUDY_HELP)
def bench(
    c: Context,
    device: str = "auto",
    suite: str = "quick",
    weights: str = "auto",
    out: str = "",
    env: str = "native",
    resume: bool = False,
    retry: bool = False,
    host: Iterable[str] | None = None,
) -> None:
    """Measure speed and memory only; no profile, no report."""
    from harness import cli, cli_hosts, options
    from harness.terms import RunKind

    asked = options.Asked(device=device, suite=suite, weights=weights, out=out, env=env, resume=resume, retry=retry)
    cli.run(
        lambda: cli_hosts.on_each(
            "bench", asked, tuple(host or ()), lambda one: cli.bench(one, (RunKind.ROUNDS, RunKind.SOLO))
        )
    )


@task(iterable=["host"], help=STUDY_HELP)
def profile(
    c: Context,
    device: str = "auto",
    suite: str = "quick",
    weights: str = "auto",
    out: str = "",
    env: str = "native",
    resume: bool = False,
    retry: bool = False,
    host: Iterable[str] | None = None,
) -> None:
    """Measure node times, routing and bandwidth only; no report."""
    from harness import cli, cli_hosts, options
    from harness.terms import RunKind

    asked = options.Asked(device=device, suite=suite, weights=weights, out=out, env=env, resume=resume, retry=retry)
    cli.run(
        lambda: cli_hosts.on_each(
            "profile",
            asked,
            tuple(host or ()),
            lambda one: cli.bench(one, (RunKind.PROFILE, RunKind.ROUTING, RunKind.BANDWIDTH)),
        )
    )


@task(help={"device": DEVICE, "suite": SUITE, "weights": WEIGHTS, "json": "as JSON"})
def plan(c: Context, device: str = "auto", suite: str = "quick", weights: str = "auto", json: bool = False) -> None:
    """Show the cells in their order, minutes and bytes; run nothing."""
    from harness import cli, options

    cli.run(
        lambda: cli.plan(
            options.study_options(device=device, suite=suite, weights=weights, out="", env="native", resume=False),
            as_json=json,
        )
    )


@task(iterable=["model"], help={"model": "name in configs/models.toml; may be given several times; default: all"})
def fetch(c: Context, model: Iterable[str] | None = None) -> None:
    """Download released weights at their pinned revisions; resumes, verifies."""
    from harness import cli

    cli.run(lambda: cli.fetch(tuple(model or ())))


@task(help={"json": "as JSON", "models_dir": "folder of the .gguf files; default: where fetch puts them"})
def verify(c: Context, json: bool = False, models_dir: str = "") -> None:
    """Hash every released file and compare; exit code 4 on a mismatch."""
    from harness import cli

    cli.run(lambda: cli.verify(as_json=json, models_dir=models_dir))


@task(
    help={
        "model": "name in configs/models.toml",
        "quant": "file type: Q4_K_M, Q4_0, Q8_0, F16, ...",
        "experts": "experts a layer, for the sparsity family",
        "used": "experts a token",
        "clone": "any GGUF file whose shapes and types to copy, instead of --model",
        "out": "file to write",
    }
)
def proxy(
    c: Context,
    model: str = "",
    quant: str = "Q4_K_M",
    experts: int = 0,
    used: int = 0,
    clone: str = "",
    out: str = "",
) -> None:
    """Write a GGUF with a model's shapes and types and random values."""
    from harness import cli

    cli.run(lambda: cli.proxy(model=model, quant=quant, experts=experts, used=used, clone=clone, out=out))


@task(
    iterable=["data"],
    help={
        "data": "dataset folder or JSONL file; may be given several times",
        "out": "folder for the report",
        "compare": "two datasets A B in place of --data: paired ratios of B over A, cell by cell",
        "salvage": "write the whole records of damaged data to OUT/runs.jsonl instead",
    },
    klass=TaskWithPair,
)
def report(
    c: Context,
    data: Iterable[str] | None = None,
    out: str = "",
    compare: tuple[str, ...] | None = None,
    salvage: bool = False,
) -> None:
    """Write tables, figures and verdicts from records alone; no llama.cpp, no device."""
    from harness import cli

    cli.run(lambda: cli.report(tuple(data or ()), out, compare=compare or (), salvage=salvage))


@task(iterable=["data"], help={"data": "dataset folder or JSONL file; may be given several times", "json": "as JSON"})
def claims(c: Context, data: Iterable[str] | None = None, json: bool = False) -> None:
    """Judge every claim on records."""
    from harness import cli

    cli.run(lambda: cli.claims(tuple(data or ()), as_json=json))


@task(
    iterable=["data"],
    help={
        "data": "dataset folder; may be given several times, all of one machine",
        "out": "folder of the release",
        "title": "what was measured, in one line",
        "check": "check released data instead: every byte, every record",
    },
)
def release(c: Context, data: Iterable[str] | None = None, out: str = "", title: str = "", check: bool = False) -> None:
    """Join datasets into a released one with schema and checksums, or check one."""
    from harness import cli

    cli.run(lambda: cli.release(tuple(data or ()), out, title, check=check))


@task(help={"check": "change nothing; exit code 2 when ARTIFACT.md is not up to date"})
def docs(c: Context, check: bool = False) -> None:
    """Write ARTIFACT.md from claims and suites."""
    from harness import cli

    cli.run(lambda: cli.docs(check=check))


@task(help={"device": DEVICE, "json": "as JSON"})
def doctor(c: Context, device: str = "auto", json: bool = False) -> None:
    """Show what this machine has, lacks, and how to mend it."""
    from harness import cli

    cli.run(lambda: cli.doctor(device, as_json=json))


@task(
    help={
        "device": DEVICE,
        "wheelhouse": "folder of wheels: build without any network",
        "base": "image in place of the pinned base",
        "index_url": "package index in place of pip's own",
        "ca_bundle": "certificates of a company proxy",
        "native": "tune llama.cpp to this machine's CPU",
        "host": "ssh://user@board: build there",
    }
)
def build(
    c: Context,
    device: str = "auto",
    wheelhouse: str = "",
    base: str = "",
    index_url: str = "",
    ca_bundle: str = "",
    native: bool = False,
    host: str = "",
) -> None:
    """Build the pinned image of a device and print its digest."""
    from harness import cli

    cli.run(
        lambda: cli.build(
            device,
            wheelhouse=wheelhouse,
            base=base,
            index_url=index_url,
            ca_bundle=ca_bundle,
            native=native,
            host=host,
        )
    )


@task
def build_llama_bench(c: Context) -> None:
    """Compile llama-bench from the pinned source distribution, for crosscheck."""
    from harness import cli

    cli.run(cli.build_llama_bench)


@task(
    help={
        "llama_bench": "the program",
        "rounds": "in each block; default: as the suite says",
        **{k: v for k, v in STUDY_HELP.items() if k not in ("resume", "retry", "host")},
    }
)
def crosscheck(
    c: Context,
    llama_bench: str = "",
    rounds: int = 0,
    device: str = "auto",
    suite: str = "crosscheck",
    weights: str = "auto",
    out: str = "",
    env: str = "native",
) -> None:
    """Run the same cells through llama-bench in turn; ratio with interval."""
    from harness import cli, options

    cli.run(
        lambda: cli.crosscheck(
            llama_bench,
            options.study_options(device=device, suite=suite, weights=weights, out=out, env=env, resume=False),
            rounds,
        )
    )


@task(
    help={
        "integration": "also with real llama.cpp, Docker and Chromium",
        "torture": "also the long fault-injection runs, whole",
    }
)
def test(c: Context, integration: bool = False, torture: bool = False) -> None:
    """Run the project's own tests."""
    where = "tests"
    if not (integration or torture):  # engines and containers want the machine to themselves, unit tests do not
        where = "tests/unit -n logical --maxprocesses 8"
    marks = "" if torture else "-m 'not torture'"
    whole = {"MOE_TORTURE": "whole"} if torture else {}  # without it torture is bounded, as CI runs it
    c.run(f"{sys.executable} -m pytest {where} {marks}", env=whole, pty=sys.stdout.isatty())


@task
def lint(c: Context) -> None:
    """Run ruff and strict mypy."""
    for arguments in ("ruff check .", "ruff format --check .", "mypy"):
        c.run(f"{sys.executable} -m {arguments}", pty=sys.stdout.isatty())


@task
def audit(c: Context) -> None:
    """Look up known vulnerabilities of every locked package; no answer is no pass."""
    from harness import cli, cli_audit

    cli.run(lambda: cli_audit.audit(cli.ROOT, cli_audit.ask_pip_audit(cli.ROOT), print))
