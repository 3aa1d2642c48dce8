"""The attached connection to a container, and its multiplexed stream taken apart: events as lines, stderr as a tail.

Framing as the Docker Engine API documents it for "attach": one byte of stream number, three of padding, four of length
(big-endian), then so many bytes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from harness.study.environments.lines import Lines

STDOUT, STDERR = 1, 2
HEADER = struct.Struct(">BxxxL")
READ_BYTES = 1 << 20


class Demultiplexer:
    """Fed with whatever arrives; frames and lines may be cut anywhere."""

    def __init__(self, tail_bytes: int = 4000) -> None:
        self._tail_bytes = tail_bytes
        self._incoming = bytearray()
        self._stream, self._left = 0, 0
        self._events = Lines()
        self._log = b""

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._incoming += data
        while True:
            if self._left == 0:
                if len(self._incoming) < HEADER.size:
                    return
                self._stream, self._left = HEADER.unpack_from(self._incoming)
                del self._incoming[: HEADER.size]
            part = bytes(self._incoming[: self._left])
            del self._incoming[: len(part)]
            self._left -= len(part)
            self._take(part)
            if self._left:
                return

    def _take(self, part: bytes) -> None:
        if self._stream == STDOUT:
            self._events.feed(part)
        elif self._stream == STDERR:
            self._log = (self._log + part)[-self._tail_bytes :]

    def line(self) -> bytes | None:
        """The next whole line with its newline; None where it has not arrived yet."""
        return self._events.take()

    def rest(self) -> bytes:
        """What stands after the last newline, once nothing more will come."""
        return self._events.rest()

    def tail(self) -> str:
        """The end of what was written to stderr."""
        return self._log.decode("utf-8", "replace")


class Stream:
    """The attached connection: a socket, wrapped in a reader by the SDK, or a channel of ssh."""

    def __init__(self, raw: Any, on_close: Callable[[], None] = lambda: None) -> None:
        self._raw = raw  # keeps the response alive to which the socket belongs
        self._on_close = on_close
        self._socket: Any = getattr(raw, "_sock", raw)
        self._socket.settimeout(None)

    def send(self, data: bytes) -> None:
        """All of it; OSError when the other end is gone."""
        self._socket.sendall(data)

    def receive(self, timeout_s: float) -> bytes | None:
        """What has arrived; empty at the end, None when nothing comes in time."""
        if not select.select([self._socket], [], [], max(0.0, timeout_s))[0]:
            return None
        try:
            return bytes(self._socket.recv(READ_BYTES))
        except OSError:  # reset by the other end
            return b""

    def end_input(self) -> None:
        """The worker reads an end of file; its output still comes."""
        with contextlib.suppress(OSError):  # the other end is closed already
            if hasattr(self._socket, "shutdown_write"):
                self._socket.shutdown_write()
            else:
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the connection."""
        response = getattr(self._raw, "_response", None)  # the SDK's: it holds the socket open
        for part in (response, self._raw, self._socket):
            if part is not None:
                with contextlib.suppress(OSError):  # closed twice
                    part.close()
        self._on_close()
