"""One tree of errors; each class has one exit code, and `harness.cli` catches the tree once."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command tells its caller."""

    OK = 0
    USAGE = 2
    ENVIRONMENT = 3
    INTEGRITY = 4
    RUNS_FAILED = 5
    INTERRUPTED = 130


class BundleError(Exception):
    """Something a user can act on: what was wrong, where, and what to do next."""

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cure = cure

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" -> {self.cure}" if self.cure else ""
        return f"{place}{self.what}{cure}"


class UsageError(BundleError):
    """An option or an input that cannot be taken."""


class ConfigError(BundleError):
    """A configuration file with faults: all of them at once, a line each."""

    def __init__(self, faults: list[str], *, where: str, cure: str = "") -> None:
        super().__init__("; ".join(faults), where=where, cure=cure)
        self.faults = tuple(faults)


class EnvironmentLacking(BundleError):
    """The machine lacks a program, a device, memory, disk or a permission."""

    exit_code = ExitCode.ENVIRONMENT


class IntegrityError(BundleError):
    """Bytes are not those that were promised."""

    exit_code = ExitCode.INTEGRITY


class RunsFailed(BundleError):
    """The study is complete, but some runs ended with a failure."""

    exit_code = ExitCode.RUNS_FAILED


class Interrupted(BundleError):
    """The user stopped the study; every finished run is kept."""

    exit_code = ExitCode.INTERRUPTED
