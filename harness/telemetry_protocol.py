"""What the study says to the sampler process and the sampler to the study: one JSON line a message."""

from __future__ import annotations

import msgspec

from harness.records import Channel, Struct, Telemetry


class Start(Struct, frozen=True):
    """First line to the sampler."""

    root: str = "/"
    period_ns: int = 100_000_000
    pids: tuple[int, ...] = ()  # processes whose memory is followed


class Command(Struct, frozen=True):
    """A later line; exactly one field is set. `collect` and `stop` are answered with one Telemetry line."""

    stop: bool = False
    collect: tuple[int, int] | None = None  # span on the monotonic clock
    follow: tuple[int, ...] | None = None  # from now on follow these processes instead
    pause: bool | None = None  # true: do nothing at all until false


class Ready(Struct, frozen=True):
    """The sampler runs; channels carry no samples yet."""

    ready: bool
    channels: tuple[Channel, ...]
    absent: dict[str, str]


def encode(message: Start | Command | Ready | Telemetry) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_start(line: bytes) -> Start:
    """First line to the sampler; msgspec.DecodeError when it is none."""
    return msgspec.json.decode(line, type=Start)


def decode_command(line: bytes) -> Command:
    """A later line to the sampler; msgspec.DecodeError when it is none."""
    return msgspec.json.decode(line, type=Command)


def decode_ready(line: bytes) -> Ready:
    """First line from the sampler; msgspec.DecodeError when it is none."""
    return msgspec.json.decode(line, type=Ready)


def decode_telemetry(line: bytes) -> Telemetry:
    """An answer; msgspec.DecodeError when it is none."""
    return msgspec.json.decode(line, type=Telemetry)
