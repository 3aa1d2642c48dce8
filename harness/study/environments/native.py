"""Workers as child processes of this one."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import hostfiles, protocol
from harness.protocol import Task
from harness.study.environments.base import Exit
from harness.study.environments.huge_pages import with_huge_pages
from harness.study.environments.lines import Lines
from harness.terms import EnvironmentKind

STOP_WAIT_S = 10.0
TAIL_BYTES = 4000
READ_BYTES = 1 << 20


class NativeProcess:
    """One worker; its events come through a pipe of their own, its stderr goes to a file without a name."""

    def __init__(self, command: list[str], folder: Path, environ: dict[str, str]) -> None:
        read_end, write_end = os.pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._oom_kills = _oom_kills()
        self._killed_by_us = False
        self._words = ""
        self._process = subprocess.Popen(
            [*command, "--events-fd", str(write_end)],
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            pass_fds=(write_end,),
            cwd=folder,
            env=environ,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its workers in order
        )
        os.close(write_end)
        self.pid = self._process.pid
        self._events = read_end
        self._lines = Lines()
        self._selector = selectors.DefaultSelector()
        self._selector.register(read_end, selectors.EVENT_READ)

    def write(self, data: bytes) -> None:
        """Send a line."""
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise BrokenPipeError("the worker's input is closed")
        stdin.write(data)
        stdin.flush()

    def read_line(self, timeout_s: float) -> bytes:
        """Next line; empty at the end."""
        deadline = time.monotonic() + timeout_s
        while (line := self._lines.take()) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise TimeoutError
            chunk = os.read(self._events, READ_BYTES)
            if not chunk:
                return self._lines.rest()
            self._lines.feed(chunk)
        return line

    def kill(self) -> None:
        """SIGKILL to the worker's whole session."""
        if self._process.poll() is None:
            self._killed_by_us = True
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.killpg(self._process.pid, signal.SIGKILL)

    def dump_stack(self) -> None:
        """SIGUSR1 makes faulthandler write all stacks; half a second is enough for that."""
        with contextlib.suppress(ProcessLookupError):  # then there is no stack to tell of
            os.kill(self._process.pid, signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):  # most go on: they are killed next
            self._process.wait(0.5)

    def wait(self) -> Exit:
        """Close its input, give it some seconds, then kill it."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it no longer reads
                self._process.stdin.close()
        try:
            code = self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._close()
        return self._exit(code)

    def _close(self) -> None:
        self.last_words()
        self._stderr.close()
        if self._events >= 0:
            self._selector.close()
            os.close(self._events)
            self._events = -1

    def _exit(self, code: int) -> Exit:
        if code >= 0:
            return Exit(code, None, oom_killed=False)
        by_kernel = -code == signal.SIGKILL and not self._killed_by_us and _oom_kills() > self._oom_kills
        return Exit(None, -code, oom_killed=by_kernel)

    def last_words(self) -> str:
        """Tail of stderr."""
        if not self._stderr.closed:
            self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, self._stderr.tell() - TAIL_BYTES))
            self._words = self._stderr.read().decode("utf-8", "replace")
        return self._words


class NativeEnvironment:
    """Runs `python -m harness.measure` with the interpreter of this process."""

    kind = EnvironmentKind.NATIVE
    image_digest = ""

    def __init__(self, root: Path, build_id: str) -> None:
        self._root = root
        self.build_id = build_id

    def start(self, task: Task) -> NativeProcess:
        """Start a worker and hand it its task."""
        process = NativeProcess([sys.executable, "-m", "harness.measure"], self._root, with_huge_pages(os.environ))
        with contextlib.suppress(BrokenPipeError):  # it died at once: the runner reads that from the event stream
            process.write(protocol.encode(task))
        return process

    def close(self) -> None:
        """Children end with their pipes; nothing is left."""


def _oom_kills() -> int:
    """How often the kernel has killed for memory since boot; 0 where it does not tell."""
    for line in (hostfiles.read_text(Path("/proc/vmstat")) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
