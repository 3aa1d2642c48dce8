"""Checksums: every byte read, once; what differs is named with both hashes; the list agrees with the registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from harness.errors import ExitCode, IntegrityError
from harness.models import checksums
from harness.models.checksums import CACHE_NAME, FileState, require, verified_sha256, verify, verify_model
from harness.models.registry import HubSource, Model, load

ROOT = Path(__file__).parents[2]
RENEW = (
    "python -c 'from pathlib import Path; from harness.models import checksums, registry; "
    "print(checksums.sums(registry.load(Path())), end=str())' > checksums/models.sha256"
)


def model_of(name: str, content: bytes) -> Model:
    return Model(
        name=name,
        display_name=name,
        architecture="llama",
        file_type="Q4_K_M",
        licence="MIT",
        parameters_total=1,
        parameters_active=1,
        source=HubSource(
            repository="a/b",
            revision="0" * 40,
            file=f"sub/{name}.gguf",
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        ),
    )


def stored(folder: Path, name: str, content: bytes) -> Model:
    (folder / f"{name}.gguf").write_bytes(content)
    return model_of(name, content)


def test_the_list_is_generated_from_the_registry() -> None:
    listed = (ROOT / "checksums" / "models.sha256").read_text(encoding="utf-8")
    assert listed == checksums.sums(load(ROOT)), f"renew it: {RENEW}"


@pytest.mark.parametrize("command", [["sha256sum", "-c"], ["shasum", "-a", "256", "-c"]], ids=lambda words: words[0])
def test_the_common_tools_accept_its_form(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"this machine has no {command[0]}")
    pins = [model.released() for model in load(ROOT).with_weights()]
    text = checksums.sums(load(ROOT))
    for pin in pins:  # the form is what counts here, so small files with their own hashes stand in
        (tmp_path / pin.file_name).write_bytes(pin.file_name.encode())
        text = text.replace(pin.sha256, hashlib.sha256(pin.file_name.encode()).hexdigest())
    (tmp_path / "sums").write_text(text, encoding="utf-8")
    done = subprocess.run([*command, "sums"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(": OK") == len(pins)


def test_good_wrong_and_missing_files_in_order(tmp_path: Path) -> None:
    models = [stored(tmp_path, name, name.encode() * 100_000) for name in ("a", "b", "c", "d")]
    (tmp_path / "b.gguf").write_bytes(b"b" * 99_999 + b"B")
    (tmp_path / "c.gguf").unlink()
    (tmp_path / "d.gguf").unlink()
    os.mkfifo(tmp_path / "d.gguf")
    verdicts = verify(models, tmp_path, workers=3)
    states = [FileState.OK, FileState.DIFFERS, FileState.MISSING, FileState.UNREADABLE]
    assert [verdict.state for verdict in verdicts] == states
    assert [verdict.name for verdict in verdicts] == ["a", "b", "c", "d"]
    assert verdicts[2].found_sha256 is None
    with pytest.raises(IntegrityError) as caught:
        require(verdicts)
    assert caught.value.exit_code is ExitCode.INTEGRITY
    for part in ("b.gguf", models[1].released().sha256, str(verdicts[1].found_sha256), "d.gguf is a FIFO"):
        assert part in caught.value.what
    assert "c.gguf" not in caught.value.what


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    model = stored(tmp_path, "a", b"x" * 1000)
    assert [verify_model(model, tmp_path).cached for _ in range(3)] == [False, True, True]
    assert not verify_model(model, tmp_path, rehash=True).cached
    (tmp_path / "a.gguf").write_bytes(b"y" * 1000)
    changed = verify_model(model, tmp_path)
    assert (changed.cached, changed.state) == (False, FileState.DIFFERS)


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_what_makes_a_file_another_one(tmp_path: Path, change: str) -> None:
    model = stored(tmp_path, "a", b"x" * 1000)
    path = tmp_path / "a.gguf"
    verify_model(model, tmp_path)
    status = path.stat()
    if change == "inode":
        path.rename(tmp_path / "kept")  # so that its inode is not given out again
    path.write_bytes(b"y" * (1001 if change == "size" else 1000))
    shift_ns = 1 if change == "mtime" else 0
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + shift_ns))
    assert verify_model(model, tmp_path).state is FileState.DIFFERS


def test_rehash_finds_what_the_key_cannot_show(tmp_path: Path) -> None:
    model = stored(tmp_path, "a", b"x" * 1000)
    verify_model(model, tmp_path)
    status = (tmp_path / "a.gguf").stat()
    (tmp_path / "a.gguf").write_bytes(b"y" * 1000)
    os.utime(tmp_path / "a.gguf", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify_model(model, tmp_path).state is FileState.OK
    assert verify_model(model, tmp_path, rehash=True).state is FileState.DIFFERS


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a.gguf": 3}', b"\xff\xfe"])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    model = stored(tmp_path, "a", b"x")
    (tmp_path / CACHE_NAME).write_bytes(content)
    assert verify_model(model, tmp_path).state is FileState.OK
    assert verify_model(model, tmp_path).cached


def test_many_writers_of_the_cache_lose_nothing(tmp_path: Path) -> None:
    models = [stored(tmp_path, f"m{number}", bytes([number])) for number in range(24)]
    threads = [threading.Thread(target=verify, args=(models[start::4], tmp_path)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(verdict.cached for verdict in verify(models, tmp_path))


def test_the_hash_for_the_record(tmp_path: Path) -> None:
    model = stored(tmp_path, "a", b"x")
    assert verified_sha256(model, tmp_path) == hashlib.sha256(b"x").hexdigest()
    (tmp_path / "a.gguf").write_bytes(b"yy")
    with pytest.raises(IntegrityError, match="expected sha256"):
        verified_sha256(model, tmp_path)
    (tmp_path / "a.gguf").unlink()
    with pytest.raises(IntegrityError, match=r"is not there -> \./artifact fetch"):
        verified_sha256(model, tmp_path)
