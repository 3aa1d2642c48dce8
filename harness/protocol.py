"""What the study says to a worker and a worker to the study: one JSON line a message."""

from __future__ import annotations

import msgspec

from harness.records import Host, Measured, RunSpec, Struct, Taint
from harness.terms import BurstKind, Ending


class Task(Struct, frozen=True, tag="task"):
    """First line to a worker: the run, and where its weights lie on this machine."""

    spec: RunSpec
    model_path: str
    prompt_text: str = ""


class Turn(Struct, frozen=True, tag="turn"):
    """Do one burst now."""

    kind: BurstKind
    round: int
    position: int
    after_others: bool = False  # they had the machine since: touch the weights before the window


class Finish(Struct, frozen=True, tag="finish"):
    """No more turns: report and exit."""


class WorkerFacts(Struct, frozen=True):
    """What only the measured process can tell of its build and host."""

    llama_cpp_commit: str
    llama_cpp_python: str
    build_flags: str
    compiler: str
    python: str
    host: Host


class Ready(Struct, frozen=True, tag="ready"):
    """Loaded and warm, threads paused."""

    facts: WorkerFacts
    decode_token_ns: int


class Done(Struct, frozen=True, tag="done"):
    """A turn is over, threads paused."""

    tokens: int
    duration_ns: int


class Finished(Struct, frozen=True, tag="finished"):
    """Everything that was measured: exactly one a worker."""

    run_id: str
    facts: WorkerFacts
    measured: Measured
    taints: tuple[Taint, ...] = ()


class Failed(Struct, frozen=True, tag="failed"):
    """The worker could not go on and says why."""

    run_id: str
    ending: Ending
    message: str


Command = Turn | Finish
Event = Ready | Done | Finished | Failed


def encode(message: Task | Command | Event) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_event(line: bytes) -> Event:
    """One line from a worker; msgspec.DecodeError when it is none."""
    event: Event = msgspec.json.decode(line, type=Event)
    return event


def decode_task(line: bytes) -> Task:
    """First line to a worker; msgspec.DecodeError when it is none."""
    return msgspec.json.decode(line, type=Task)


def decode_command(line: bytes) -> Command:
    """A later line to a worker; msgspec.DecodeError when it is none."""
    command: Command = msgspec.json.decode(line, type=Command)
    return command
