"""With what exactly a study is made: commit, locks, power mode; and the records made of outcomes."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.protocol import WorkerFacts
from harness.records import GateWait, Host, Provenance, Record, Telemetry
from harness.study.cohort import Outcome
from harness.study.taints import burst_taints
from harness.study.telemetry_taints import telemetry_taints, with_doubts
from harness.terms import EngineKind, Origin
from harness.version import bundle_version

UNKNOWN = "not told: the worker ended before it spoke"


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What is the same for every record of a study."""

    bundle_version: str
    git_commit: str
    git_dirty: bool
    lock_sha256: str
    image_digest: str
    origin: Origin
    clocks_pinned: bool = False  # the device profile demands fixed clocks: a change taints


def study_facts(root: Path, image_digest: str, origin: Origin, *, clocks_pinned: bool = False) -> StudyFacts:
    """Read once, before the first run."""
    commit, dirty = _git(root)
    return StudyFacts(
        bundle_version=bundle_version(root),
        git_commit=commit,
        git_dirty=dirty,
        lock_sha256=lock_sha256(root),
        image_digest=image_digest,
        origin=origin,
        clocks_pinned=clocks_pinned,
    )


def lock_sha256(root: Path) -> str:
    """Of the lock that the environment was made from."""
    return hashlib.sha256((root / "requirements" / "runtime.lock").read_bytes()).hexdigest()


def _git(root: Path) -> tuple[str, bool]:
    try:
        commit = _ask_git(root, "rev-parse", "HEAD")
        return commit, bool(_ask_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout", False


def _ask_git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_record(
    outcome: Outcome, study: StudyFacts, telemetry: Telemetry | None, gates: tuple[GateWait, ...], power_mode: str
) -> Record:
    """One outcome as the line that is kept; `power_mode` as it stands at its end."""
    own = burst_taints(outcome.measured) if outcome.measured else ()
    sensed = telemetry_taints(telemetry, outcome.measured, clocks_pinned=study.clocks_pinned) if telemetry else ()
    return Record(
        spec=outcome.spec,
        origin=Origin.SYNTHETIC if outcome.spec.engine is EngineKind.FAKE else study.origin,
        provenance=_provenance(outcome.facts or _unknown_facts(), study, power_mode),
        termination=outcome.termination,
        measured=outcome.measured,
        telemetry=with_doubts(telemetry) if telemetry else None,
        gates=gates,
        taints=(*outcome.taints, *own, *sensed),
    )


def _unknown_facts() -> WorkerFacts:
    host = Host(
        machine=UNKNOWN, system=UNKNOWN, kernel=UNKNOWN, cpu_model=UNKNOWN,
        cores=0, memory_bytes=0, accelerator=UNKNOWN, fingerprint="",
    )  # fmt: skip
    return WorkerFacts(
        llama_cpp_commit=UNKNOWN,
        llama_cpp_python=UNKNOWN,
        build_flags=UNKNOWN,
        compiler=UNKNOWN,
        python=UNKNOWN,
        host=host,
    )


def _provenance(facts: WorkerFacts, study: StudyFacts, power_mode: str) -> Provenance:
    return Provenance(
        bundle_version=study.bundle_version,
        git_commit=study.git_commit,
        git_dirty=study.git_dirty,
        lock_sha256=study.lock_sha256,
        llama_cpp_commit=facts.llama_cpp_commit,
        llama_cpp_python=facts.llama_cpp_python,
        build_flags=facts.build_flags,
        compiler=facts.compiler,
        image_digest=study.image_digest,
        python=facts.python,
        host=facts.host,
        power_mode=power_mode,
        taken_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
