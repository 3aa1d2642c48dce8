"""The study's eyes on another machine: `python -m harness.measure.view` in a container there.

It answers questions of view_protocol, one JSON line each, from stdin to stdout, and ends with its stdin. Between them
it sleeps in a read: it takes no time from what is measured.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import psutil

from harness import hostfiles, view_protocol
from harness.clock import now_ns
from harness.view_protocol import Answer, Keep, Kept, KeptState, Look, Question, Sight

HASH_BYTES = 1 << 20


def answer(question: Question) -> Answer:
    """Look, or keep."""
    return _look(question) if isinstance(question, Look) else _keep(question)


def _look(question: Look) -> Sight:
    paths = [Path(name) for pattern in question.patterns for name in sorted(glob.glob(pattern))]  # noqa: PTH207
    read = {str(path): hostfiles.read_text(path) for path in paths}
    return Sight(
        now_ns=now_ns(),
        files={name: text for name, text in read.items() if text is not None},
        cores=min(psutil.cpu_count(logical=False) or os.cpu_count() or 1, len(os.sched_getaffinity(0))),
        memory_available_bytes=psutil.virtual_memory().available,
    )


def _keep(question: Keep) -> Kept:
    path = Path(question.folder) / question.name
    brought = path.with_name(view_protocol.partial(question.name))
    if path.exists() and path.stat().st_size == question.size_bytes:
        return Kept(state=KeptState.HERE)
    if not brought.exists():
        return Kept(state=KeptState.MISSING)
    found = _sha256(brought)
    if found != question.sha256:
        brought.unlink()
        return Kept(state=KeptState.WRONG, found_sha256=found)
    brought.rename(path)
    return Kept(state=KeptState.HERE)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Until the questions end."""
    for line in questions:
        answers.write(view_protocol.encode(answer(view_protocol.decode_question(line))))
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
