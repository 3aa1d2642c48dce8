"""Files as untrusted things: opened without blocking, hashed in one pass, renamed into place for good, locked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import IntegrityError

READ_BYTES = 1 << 20  # large enough that system calls cost nothing beside the hash, small enough for the cache
LOCK_POLL_S = 0.1


def open_regular(path: Path) -> int:
    """A descriptor to read from; whatever else the path is, it neither blocks nor loops.

    Raises:
        IntegrityError: it is not there, cannot be opened, or is no regular file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        cure = "fetch or generate it anew"
        raise IntegrityError(f"cannot be opened: {error.strerror}", where=str(path), cure=cure) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise IntegrityError(f"is a {_kind(mode)}, not a file", where=str(path), cure="give the path of a file")
    return descriptor


def sha256_of(descriptor: int) -> str:
    """Hash of all that follows the descriptor's position, in hexadecimal."""
    digest = hashlib.sha256()
    feed(descriptor, digest.update)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a whole file."""
    descriptor = open_regular(path)
    try:
        return sha256_of(descriptor)
    finally:
        os.close(descriptor)


def feed(descriptor: int, take: Callable[[memoryview], None]) -> int:
    """Hands over all that follows the descriptor's position, in pieces that are reused; returns their bytes."""
    total = 0
    view = memoryview(bytearray(READ_BYTES))
    while count := os.readv(descriptor, [view]):
        take(view[:count])
        total += count
    return total


def put_in_place(source: Path, target: Path) -> None:
    """Atomic rename that survives a power cut."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock among the processes and threads of this machine; `on_wait` is called once if it waits.

    The lock file stays: removing it would let two holders in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _try_lock(descriptor):
            on_wait()
            while not _try_lock(descriptor):
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    return "FIFO" if stat.S_ISFIFO(mode) else "device"
