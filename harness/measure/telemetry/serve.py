"""The sampler's clockwork: sleeps in `select` until the next tick or the next command, never spins."""

from __future__ import annotations

import os
import select
from collections import deque

from harness import telemetry_protocol as protocol
from harness.clock import now_ns
from harness.measure.telemetry.session import Session
from harness.records import Telemetry
from harness.units import ns_to_s

_COVER_NS = 2_000_000_000  # how long a collection waits for a sample beyond its end
_READ_BYTES = 65536


class Lines:
    """Whole lines from a file descriptor; the rest waits for its end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def read(self) -> list[bytes] | None:
        """Lines that are complete after one read, which may block; None at the end of the stream."""
        chunk = os.read(self.fd, _READ_BYTES)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line for line in lines if line]


class Server:
    """One session, one stream of commands, one stream of answers."""

    def __init__(self, session: Session, commands: Lines, events_fd: int) -> None:
        self._session = session
        self._commands = commands
        self._events_fd = events_fd
        self._wanted: deque[tuple[int, int]] = deque()
        self._paused = False
        self._next_ns = now_ns()

    def run(self, early: list[bytes]) -> None:
        """Serve until told to stop, or until the study's end of the pipe is closed; then answer once more.

        `early`: command lines that arrived together with the first line.
        """
        lines: list[bytes] | None = early
        while lines is not None and not any(self._obey(line) for line in lines):
            lines = self._wait()
            if not self._paused and now_ns() >= self._next_ns:
                self._tick()
            self._answer()
        if not self._paused:
            self._session.tick()
        self._answer(now=True)
        self._write(self._session.telemetry())

    def _wait(self) -> list[bytes] | None:
        """Sleep until the next tick, or until a command arrives."""
        timeout_s = None if self._paused else max(0.0, ns_to_s(self._next_ns - now_ns()))
        readable, _, _ = select.select([self._commands.fd], [], [], timeout_s)
        return self._commands.read() if readable else []

    def _tick(self) -> None:
        self._session.tick()
        period_ns = self._session.period_ns
        self._next_ns += period_ns
        late = (now_ns() - self._next_ns) // period_ns + 1
        if late > 0:
            self._session.miss(late)
            self._next_ns += late * period_ns

    def _obey(self, line: bytes) -> bool:
        """Carry out one command; true: the end. A line that is none is left out: the study never sends one."""
        try:
            command = protocol.decode_command(line)
        except (ValueError, RecursionError):
            return False
        if command.collect is not None:
            self._wanted.append(command.collect)
        if command.follow is not None:
            self._session.follow(command.follow)
        if command.pause is not None:
            self._paused = command.pause
            self._next_ns = now_ns()
        return command.stop

    def _answer(self, *, now: bool = False) -> None:
        """Answer collections whose end is covered by samples, or that have waited long enough; at the end all."""
        while self._wanted:
            start_ns, end_ns = self._wanted[0]
            if not (now or self._paused or self._session.covers(end_ns) or now_ns() > end_ns + _COVER_NS):
                return
            self._wanted.popleft()
            self._write(self._session.telemetry(start_ns, end_ns))

    def _write(self, message: Telemetry) -> None:
        write_all(self._events_fd, protocol.encode(message))


def write_all(fd: int, data: bytes) -> None:
    """Write everything; a reader that is gone is no error here: the stream of commands ends as well."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        return
