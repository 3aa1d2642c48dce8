"""The study's end of the sampler process: start, wait until it is ready, collect spans, stop.

The process lives for the whole study; every wait here is bounded and sleeps in `select`. Start it from a thread that
lives as long as the study: on Linux the sampler dies with the thread that started it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

import harness
from harness import telemetry_protocol as protocol
from harness.errors import EnvironmentLacking
from harness.records import Channel, Telemetry

READY_S = 20.0
ANSWER_S = 15.0
_STOP_S = 5.0
_READ_BYTES = 1 << 20


class SamplerLost(EnvironmentLacking):
    """The sampler process died or does not answer: runs go on without telemetry, and say so."""


class SamplerPipe(Protocol):
    """The way to a sampler process and back; lines are whole."""

    pid: int  # 0: of another machine

    def send(self, line: bytes) -> None:
        """BrokenPipeError when it is gone."""

    def line(self, timeout_s: float) -> bytes:
        """The next line; empty at the end, TimeoutError when none comes in time."""

    def kill(self) -> None:
        """End it at once."""

    def end(self) -> None:
        """Close its input, wait some seconds, then end it by force."""


class ChildPipe:
    """A sampler that is a child of this process."""

    def __init__(self, python: Path | str = sys.executable) -> None:
        self._events_fd, theirs = os.pipe()
        self._rest = b""
        self._process = subprocess.Popen(
            [str(python), "-m", "harness.measure.telemetry", "--events-fd", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs],
            bufsize=0,
            cwd=Path(harness.__file__).parents[1],  # where `-m` finds the package, wherever the study was called from
        )
        os.close(theirs)
        self.pid = self._process.pid

    def send(self, line: bytes) -> None:
        """Through its stdin."""
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise BrokenPipeError("was stopped")
        stdin.write(line)

    def line(self, timeout_s: float) -> bytes:
        """From a descriptor of its own; answers may be megabytes long."""
        deadline = time.monotonic() + timeout_s
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._events_fd], [], [], left_s)[0]:
                raise TimeoutError
            chunk = os.read(self._events_fd, _READ_BYTES)
            if not chunk:
                return b""
            parts.append(chunk)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Close the pipes; wait, then terminate, then kill."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for force in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_STOP_S)
                break
            except subprocess.TimeoutExpired:
                force()
        self._process.wait()
        if self._events_fd >= 0:
            os.close(self._events_fd)
            self._events_fd = -1


class SamplerHandle:
    """A running sampler; use `start` or `over`."""

    def __init__(self, pipe: SamplerPipe) -> None:
        self._pipe = pipe
        self.ready: protocol.Ready

    @classmethod
    def start(cls, request: protocol.Start, *, python: Path | str = sys.executable) -> SamplerHandle:
        """Start a sampler here and wait for its handshake; `handle.ready` then holds its channels.

        Raises:
            SamplerLost: no handshake within 20 s.
        """
        return cls.over(ChildPipe(python), request)

    @classmethod
    def over(cls, pipe: SamplerPipe, request: protocol.Start) -> SamplerHandle:
        """As `start`, for a process that runs already."""
        handle = cls(pipe)
        try:
            handle._send(protocol.encode(request))
            handle.ready = handle._ready()
        except BaseException:
            handle.kill()
            raise
        return handle

    @property
    def pid(self) -> int:
        """Process id of the sampler; 0 on another machine."""
        return self._pipe.pid

    def collect(self, start_ns: int, end_ns: int) -> Telemetry:
        """All samples of a span of the monotonic clock; waits up to 2 s beyond its end for samples that close it.

        Raises:
            SamplerLost: the process died or does not answer.
        """
        self._command(protocol.Command(collect=(start_ns, end_ns)))
        return self._telemetry(ANSWER_S)

    def follow(self, pids: Sequence[int]) -> None:
        """From now on follow the memory of these processes instead of others."""
        self._command(protocol.Command(follow=tuple(pids)))

    def pause(self, paused: bool) -> None:
        """Make the sampler do nothing at all, or work again: for comparing runs with and without it."""
        self._command(protocol.Command(pause=paused))

    def stop(self) -> Telemetry | None:
        """End the sampler, by force if need be; returns what it saw in its whole life, or None when it was lost."""
        try:
            self._command(protocol.Command(stop=True))
            telemetry = self._telemetry(ANSWER_S)
        except SamplerLost:
            telemetry = None
        self._pipe.end()
        return telemetry

    def kill(self) -> None:
        """End the sampler at once."""
        self._pipe.kill()

    def __enter__(self) -> SamplerHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _command(self, command: protocol.Command) -> None:
        self._send(protocol.encode(command))

    def _send(self, line: bytes) -> None:
        try:
            self._pipe.send(line)
        except BrokenPipeError:
            raise self._lost("has ended") from None

    def _ready(self) -> protocol.Ready:
        try:
            return protocol.decode_ready(self._line(READY_S))
        except (ValueError, RecursionError) as error:
            raise self._lost(f"began with nonsense ({error})") from None

    def _telemetry(self, timeout_s: float) -> Telemetry:
        try:
            return protocol.decode_telemetry(self._line(timeout_s))
        except (ValueError, RecursionError) as error:
            raise self._lost(f"answered nonsense ({error})") from None

    def _line(self, timeout_s: float) -> bytes:
        try:
            line = self._pipe.line(timeout_s)
        except TimeoutError:
            raise self._lost(f"gave no answer within {timeout_s:.0f} s") from None
        if not line:
            raise self._lost("has ended")
        return line

    def _lost(self, what: str) -> SamplerLost:
        return SamplerLost(f"the sampler {what}", where="telemetry", cure="see its words on stderr; ./artifact doctor")


def cut(telemetry: Telemetry, start_ns: int, end_ns: int) -> Telemetry:
    """The part of a telemetry within a span, with the nearest sample on either side of each channel.

    `missed_ticks` stays that of the whole: an upper bound, because the record does not date them.
    """
    channels = (_cut_channel(channel, start_ns, end_ns) for channel in telemetry.channels)
    return msgspec.structs.replace(
        telemetry,
        start_ns=max(start_ns, telemetry.start_ns),
        end_ns=min(end_ns, telemetry.end_ns),
        channels=tuple(channel for channel in channels if channel.at_ns),
    )


def _cut_channel(channel: Channel, start_ns: int, end_ns: int) -> Channel:
    first = max(0, bisect_left(channel.at_ns, start_ns) - 1)
    stop = bisect_right(channel.at_ns, end_ns) + 1
    return msgspec.structs.replace(channel, at_ns=channel.at_ns[first:stop], values=channel.values[first:stop])
