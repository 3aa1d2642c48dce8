"""Builds llama-bench from the pinned source distribution of llama-cpp-python: the commit and flags of the library."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from harness.errors import BundleError, EnvironmentLacking, IntegrityError

PACKAGE = "llama-cpp-python"
USUAL_FLAGS = "-DGGML_OPENMP=OFF"
# What the library's own build leaves out as well; none of it computes tokens.
TOOL_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
Say = Callable[[str], None]


def build_llama_bench(root: Path, commit: str, folder: Path, say: Say, flags: str = "") -> Path:
    """Download, check, unpack, compile; about five minutes on two cores. What is there already is not made again.

    Args:
        root: of the checkout, for the lock.
        commit: of llama.cpp as this bundle knows it; the source distribution does not tell it.
        folder: everything is made below it.
        say: told of each step.
        flags: of CMake, as the library was built with; none: what .venv/flags holds, else the usual ones.

    Returns:
        The program.

    Raises:
        IntegrityError: the source distribution is not the pinned one.
        EnvironmentLacking: no network, no compiler, no space.
    """
    chosen = flags or _flags_of(Path(sys.prefix))
    build = folder / "build"
    program = build / "bin" / "llama-bench"
    mark = folder / "made-with"
    wanted = f"{commit} {version(PACKAGE)} {chosen}"
    if program.exists() and mark.exists() and mark.read_text() == wanted:
        return program
    source = llama_cpp_source(root, folder, say)
    say("compiling llama-bench, about five minutes on two cores")
    log = folder / "build.log"
    _run(["cmake", "-S", str(source), "-B", str(build), *cmake_flags(chosen, commit)], log)
    _run(["cmake", "--build", str(build), "--target", "llama-bench", "-j", str(os.cpu_count() or 1)], log)
    mark.write_text(wanted)
    return program


def _flags_of(environment: Path) -> str:
    """The flags that the bootstrap script keeps beside its environment."""
    kept = environment / "flags"
    return kept.read_text(encoding="utf-8").strip() if kept.exists() else USUAL_FLAGS


def cmake_flags(flags: str, commit: str) -> list[str]:
    """What llama.cpp's build is told; flags of the Python package's own targets mean nothing to it."""
    kept = [flag for flag in shlex.split(flags) if not re.match(r"-D(LLAVA|MTMD)_BUILD", flag)]
    return [*TOOL_FLAGS, f"-DLLAMA_BUILD_COMMIT={commit}", *kept]


def pinned_requirement(lock: str) -> str:
    """The lock's entry of the package, with its hashes.

    Raises:
        IntegrityError: there is none, or it has no hash.
    """
    match = re.search(rf"^{PACKAGE}==\S+.*(?:\\\n\s+--hash=\S+.*)+", lock, re.MULTILINE)
    if match is None:
        raise IntegrityError(f"{PACKAGE} is not pinned by a hash", where="requirements/runtime.lock")
    return match[0] + "\n"


def llama_cpp_source(root: Path, folder: Path, say: Say) -> Path:
    """llama.cpp's folder in the pinned source distribution, fetched and unpacked below `folder`.

    Raises:
        IntegrityError: the source distribution is not the pinned one.
        EnvironmentLacking: no network, no space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirement.txt"
    lock = (root / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    requirement.write_text(pinned_requirement(lock), encoding="utf-8")
    say(f"fetching the source distribution of {PACKAGE}")
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    options = ["--no-binary", PACKAGE, "--no-build-isolation", "-d", str(folder), "-r", str(requirement)]
    _run([*pip, *options], folder / "download.log")
    archives = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if len(archives) != 1:
        raise IntegrityError("expected one source distribution", where=str(folder), cure="empty the folder")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder / "source", filter="data")
    return next((folder / "source").glob("llama_cpp_python-*/vendor/llama.cpp"))


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("ab") as output:
        try:
            code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        except FileNotFoundError:
            raise EnvironmentLacking(f"there is no {command[0]}", where="PATH", cure="run it by ./artifact") from None
    if code != 0:
        raise _failed(command, log)


def _failed(command: Sequence[str], log: Path) -> BundleError:
    tail = log.read_text(encoding="utf-8", errors="replace")
    if "DO NOT MATCH THE HASHES" in tail:
        return IntegrityError("the source distribution is not the pinned one", where=str(log), cure="do not use it")
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "no output")
    return EnvironmentLacking(f"{Path(command[0]).name} failed: {last}", where=str(log), cure="the log tells why")
