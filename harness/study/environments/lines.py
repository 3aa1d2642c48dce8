"""Lines of a stream that arrives in pieces, in bounded memory."""

from __future__ import annotations

from harness.limits import LINE_BYTES


class Lines:
    """Fed with whatever arrives; a line that does not end within the limit is handed out as it stands."""

    def __init__(self, limit_bytes: int = LINE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = bytearray()
        self._scanned = 0  # bytes that hold no newline

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._bytes += data

    def take(self) -> bytes | None:
        """The next whole line with its newline; None where it has not arrived yet."""
        end = self._bytes.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._bytes)
            return self.rest() if self._scanned > self._limit_bytes else None
        line = bytes(self._bytes[: end + 1])
        del self._bytes[: end + 1]
        self._scanned = 0
        return line

    def rest(self) -> bytes:
        """What stands after the last newline, once nothing more will come."""
        rest = bytes(self._bytes)
        self._bytes.clear()
        self._scanned = 0
        return rest
