"""The sampler process: `python -m harness.measure.telemetry [--events-fd N]`, started by the study's runner.

First line on stdin: telemetry_protocol.Start. It answers Ready, then each Command, on the events descriptor (by default
what was stdout). It ends with its stdin, and with the process that started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from harness import telemetry_protocol as protocol
from harness.measure.telemetry.detect import detect
from harness.measure.telemetry.serve import Lines, Server, write_all
from harness.measure.telemetry.session import Session
from harness.orphans import die_with_parent


def main() -> int:
    """Serve one study."""
    events_fd = _events_fd()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which tells us to stop
    die_with_parent()
    commands = Lines(sys.stdin.fileno())
    lines: list[bytes] | None = []
    while lines == []:
        lines = commands.read()
    if not lines:
        return 0
    start = protocol.decode_start(lines[0])
    root = Path(start.root)
    session = Session(detect(root, start.period_ns), root=root, period_ns=start.period_ns)
    session.follow(start.pids)
    session.tick()
    write_all(events_fd, protocol.encode(protocol.Ready(ready=True, channels=session.channels, absent=session.absent)))
    Server(session, commands, events_fd).run(lines[1:])
    session.close()
    return 0


def _events_fd() -> int:
    """The descriptor for answers; stdout itself goes to stderr, so that no library's print mixes in."""
    parser = argparse.ArgumentParser(prog="harness.measure.telemetry")
    parser.add_argument("--events-fd", type=int, default=None)
    given: int | None = parser.parse_args().events_fd
    events_fd = os.dup(1) if given is None else given
    os.dup2(2, 1)
    os.set_inheritable(events_fd, False)
    return events_fd


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of client libraries (jtop) may be waiting for a server that is gone
