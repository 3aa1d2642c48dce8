"""A measured process must not outlive its study: it would go on computing beside the one that resumes.

`python -m harness.orphans PROGRAM ARGUMENT...` becomes a foreign program that dies with whoever started it, even where
it stands suspended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the thread that started us ends; elsewhere the end of stdin must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    die_with_parent()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the program that the user named
