"""What the user sees while weights are fetched or written."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars


class WeightsProgress:
    """Draws downloads (several at once) and proxies (one at a time)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._proxy = ""

    def __enter__(self) -> WeightsProgress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bars.stop()

    def step(self, text: str) -> None:
        """A proxy comes next, or released weights are looked at."""
        self._proxy = text
        if not self._console.is_terminal:
            self._console.print(text, markup=False)

    def bytes_done(self, done: int, total: int) -> None:
        """The proxy grows."""
        if self._proxy not in self._tasks:
            self._tasks[self._proxy] = self._bars.add_task(self._proxy)
        self._bars.update(self._tasks[self._proxy], completed=done, total=total)

    def begin(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """A download begins, perhaps in its middle."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name)
        self._bars.update(self._tasks[name], total=size_bytes, completed=done_bytes)
        if not self._console.is_terminal:
            sizes = f"{size_bytes / 1e6:.0f} MB, {done_bytes / 1e6:.0f} MB of them here"
            self._console.print(f"fetching {name}: {sizes}", markup=False)

    def advance(self, name: str, count_bytes: int) -> None:
        """More bytes of a download."""
        self._bars.advance(self._tasks[name], count_bytes)

    def note(self, name: str, message: str) -> None:
        """A lasting line."""
        self._console.print(f"{name}: {message}", markup=False)

    def end(self, name: str) -> None:
        """A download is in its place."""
        self._console.print(f"{name}: verified", markup=False)
