"""`python -m harness.measure --events-fd N`: one worker. Commands on stdin, events on descriptor N.

Without the option events go to a private copy of stdout, and stdout itself is turned to stderr: whatever native code
prints can never mix with them. That is how a container, which has no further descriptors, is spoken to.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import signal
import sys

from harness.measure.worker import Worker
from harness.orphans import die_with_parent


def main() -> int:
    """Parse the one option, bind the two streams, serve."""
    parser = argparse.ArgumentParser(prog="python -m harness.measure", description=__doc__)
    parser.add_argument("--events-fd", type=int, default=None, help="descriptor for events; default: what stdout was")
    events_fd = parser.parse_args().events_fd
    die_with_parent()
    gc.disable()  # no collection inside a window; a worker lives for minutes and makes no cycles to speak of
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the runner asks for the stacks of a worker that hangs
    if events_fd is None:
        events_fd = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(events_fd, "wb") as events:
        return Worker(sys.stdin.buffer, events).run()


if __name__ == "__main__":
    sys.exit(main())
