"""Studies on other machines: one `--host` as it is, several each in a process of its own, side by side."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness import cli
from harness.errors import (
    BundleError,
    EnvironmentLacking,
    ExitCode,
    IntegrityError,
    Interrupted,
    RunsFailed,
    UsageError,
)
from harness.options import Asked, StudyOptions, checked_host

WAITS_S = (2.0, 5.0, 15.0)  # before a connection is made again
# The worst first: what a user has to act on before anything else.
ERRORS: Mapping[int, type[BundleError]] = {
    ExitCode.INTERRUPTED: Interrupted,
    ExitCode.USAGE: UsageError,
    ExitCode.INTEGRITY: IntegrityError,
    ExitCode.ENVIRONMENT: EnvironmentLacking,
    ExitCode.RUNS_FAILED: RunsFailed,
}


def on_each(command: str, asked: Asked, hosts: Sequence[str], work: Callable[[StudyOptions], None]) -> None:
    """Do a command's work here, on one host, or on several side by side.

    Args:
        command: its name.
        asked: its options; with several hosts each has a folder of its own in `out`.
        hosts: addresses; none: this machine.
        work: what the command does with one machine.

    Raises:
        BundleError: as the work; of several hosts the worst.
    """
    if len(hosts) < 2:
        _persistently(asked.options(next(iter(hosts), "")), work)
        return
    folders = _folders(hosts, asked.options(hosts[0]).out)
    codes = _side_by_side(command, asked, folders)
    written = [folder for folder in folders.values() if (folder / "runs.jsonl").exists()]
    if command == "reproduce" and written:
        out = asked.options(hosts[0]).out
        cli.report([str(folder) for folder in written], str(out), salvage=False)
    _judge(codes)


def _persistently(options: StudyOptions, work: Callable[[StudyOptions], None]) -> None:
    """A connection that drops is made again a few times, and the study goes on with what is missing."""
    from harness.study.environments.base import HostLost  # noqa: PLC0415 - a report needs nothing of the study

    waits = iter(WAITS_S if options.host else ())
    dropped = False
    while True:
        try:
            return work(options)
        except EnvironmentLacking as lacking:
            dropped = dropped or isinstance(lacking, HostLost)
            wait_s = next(waits, None)
            if wait_s is None or not dropped or lacking.where != options.host:
                raise
            sys.stdout.write(f"{lacking.where}: {lacking.what}; trying again in {wait_s:.0f} s\n")
        sys.stdout.flush()
        time.sleep(wait_s)
        options = replace(options, resume=True)


def _folders(hosts: Sequence[str], out: Path) -> dict[str, Path]:
    """A folder for each host, named after it."""
    names = {checked_host(host): re.sub(r"[^A-Za-z0-9.-]+", "-", host.partition("://")[2]) for host in hosts}
    if len(names) < len(hosts) or len(set(names.values())) < len(hosts):
        raise UsageError("a host is named twice", where="--host", cure="name each once")
    return {host: out / name for host, name in names.items()}


def _side_by_side(command: str, asked: Asked, folders: Mapping[str, Path]) -> dict[str, int]:
    """Exit codes by host. Ctrl-C reaches the children as well: they stop in order, and this process waits for them."""
    with _passing_on() as children:
        told = []
        for host, folder in folders.items():
            child = subprocess.Popen(
                _command_line(command, asked, host, folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            children[host] = child
            told.append(threading.Thread(target=_tell, args=(folder.name, child), daemon=True))
            told[-1].start()
        codes = {host: child.wait() for host, child in children.items()}
        for thread in told:
            thread.join()
        return codes


def _command_line(command: str, asked: Asked, host: str, folder: Path) -> list[str]:
    given = {
        "device": asked.device,
        "suite": asked.suite,
        "weights": asked.weights,
        "out": str(folder.absolute()),
        "host": host,
    }
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    flags = [f"--{name}" for name, wanted in (("resume", asked.resume), ("retry", asked.retry)) if wanted]
    return [sys.executable, "-m", "invoke", "--search-root", str(cli.ROOT), command, *options, *flags]


def _tell(name: str, child: subprocess.Popen[str]) -> None:
    """Every line of a child under its host's name."""
    if child.stdout is None:
        return
    with child.stdout as lines:
        for line in lines:
            sys.stdout.write(f"{name}: {line}")
            sys.stdout.flush()


@contextlib.contextmanager
def _passing_on() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """While children run, signals are theirs: SIGTERM is sent on, Ctrl-C they have had from the terminal."""
    children: dict[str, subprocess.Popen[str]] = {}

    def send_on(_number: int, _frame: object) -> None:
        for child in children.values():
            child.terminate()

    def wait(_number: int, _frame: object) -> None:
        """Not SIG_IGN, which children would inherit."""

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, wait),
        signal.SIGTERM: signal.signal(signal.SIGTERM, send_on),
    }
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _judge(codes: Mapping[str, int]) -> None:
    """Nothing where all went well; else the worst, and whose it is.

    Raises:
        BundleError: of the class that has the worst exit code.
    """
    bad = {host: code for host, code in codes.items() if code}
    for code, kind in ERRORS.items():
        guilty = [host for host, found in bad.items() if found == code]
        if guilty:
            raise kind("did not end well", where=", ".join(guilty), cure="its lines above tell why; --resume goes on")
    if bad:
        what = ", ".join(f"{host} (exit code {code})" for host, code in bad.items())
        raise EnvironmentLacking("a study's process ended oddly", where=what, cure="its lines above tell why")
