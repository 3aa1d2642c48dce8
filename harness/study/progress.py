"""What the user sees while a study runs: what runs, what remains, how long still."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from harness.records import RunSpec, Termination
from harness.study.plan import Cohort
from harness.units import human_duration


class Progress(Protocol):
    """Listens to a study."""

    def begin(self, cohorts: int, runs: int, minutes: float) -> None:
        """Before the first cohort."""

    def cohort(self, cohort: Cohort, number: int) -> None:
        """A cohort begins."""

    def loading(self, spec: RunSpec) -> None:
        """A worker of it loads and warms up."""

    def round_done(self, done: int, planned: int) -> None:
        """Every worker has had its turn."""

    def waiting(self, reason: str) -> None:
        """A gate is closed."""

    def run_failed(self, spec: RunSpec, termination: Termination) -> None:
        """One run is over before its end."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def end(self) -> None:
        """After the last cohort."""


class RichProgress:
    """Bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}", style="bold"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._study = self._bars.add_task("study", detail="", start=False)
        self._rounds = self._bars.add_task("rounds", detail="", visible=False)
        self._minutes = 0.0

    def begin(self, cohorts: int, runs: int, minutes: float) -> None:
        """Announce the size of the study."""
        self._minutes = minutes
        self._console.print(f"{runs} runs in {cohorts} cohorts, about {human_duration(minutes * 60)}")
        self._bars.start_task(self._study)
        self._bars.update(self._study, total=cohorts)
        if self._live:
            self._bars.start()

    def cohort(self, cohort: Cohort, number: int) -> None:
        """Name the cohort and what is left."""
        elapsed_s = self._bars.tasks[0].elapsed or 0.0
        left = f", about {human_duration(max(0.0, self._minutes * 60 - elapsed_s))} left" if elapsed_s else ""
        names = ", ".join(cell.label for cell in cohort.cells)
        self._bars.update(
            self._study, completed=number, detail=f"{cohort.experiment.name}, pass {cohort.block + 1}{left}"
        )
        self._bars.reset(self._rounds, total=cohort.experiment.rounds, visible=True, detail="")
        if not self._live:
            total = self._bars.tasks[0].total or 0
            self._console.print(f"[{number + 1}/{total:.0f}] {cohort.experiment.title}: {names}{left}", markup=False)

    def loading(self, spec: RunSpec) -> None:
        """Say which model is being loaded."""
        self._bars.update(self._rounds, detail=f"loading {spec.model.name}")

    def round_done(self, done: int, planned: int) -> None:
        """Move the inner bar."""
        self._bars.update(self._rounds, completed=done, total=planned, detail="")

    def waiting(self, reason: str) -> None:
        """Show why nothing happens."""
        self._bars.update(self._rounds, detail=f"waiting: {reason}")
        if not self._live:
            self._console.print(f"waiting: {reason}", markup=False)

    def run_failed(self, spec: RunSpec, termination: Termination) -> None:
        """A lasting line; the study goes on."""
        first = termination.message.splitlines()[0] if termination.message else ""
        text = f"run {spec.run_id} ({spec.model.name}, {spec.experiment}) ended: {termination.ending.value}. {first}"
        self._console.print(text, style="yellow", markup=False)

    def note(self, text: str) -> None:
        """A lasting line."""
        self._console.print(text, markup=False)

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()
