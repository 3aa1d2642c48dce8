"""`python -m harness.cli_program TASK ...`: Invoke, but what a user typed wrong is one line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from harness.errors import ExitCode, UsageError
from harness.version import bundle_version

ROOT = Path(__file__).resolve().parent.parent


class ArtifactProgram(Program):
    """Tasks and options that nobody knows, values that are none: Invoke itself would say 1, or show a traceback."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Options before the task."""
        with _usage_errors():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        """The tasks and their options."""
        with _usage_errors():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """`--help` of a task that there is not."""
        with _usage_errors():
            super().parse_cleanup()


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (ParseError, ValueError) as error:  # ValueError: a word where a number belongs
        task = getattr(getattr(error, "context", None), "name", None) or ""
        cure = f"./artifact --help {task}" if task else "./artifact --list"
        raise Exit(str(UsageError(str(error).strip(), where=task, cure=cure)), code=int(ExitCode.USAGE)) from None


if __name__ == "__main__":
    ArtifactProgram(name="artifact", binary="artifact", version=bundle_version(ROOT)).run()
