"""Files, clock and power mode of the other machine, and the weights that are brought there."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import studies
from far_host import BOARD, Peer, process_of
from msgspec.structs import replace

from harness import view_protocol
from harness.clock import now_ns
from harness.errors import (
    ExitCode,
    IntegrityError,
)
from harness.measure import view
from harness.study.environments import process, remote_view, volumes
from harness.study.environments.base import HostLost
from harness.study.environments.remote_view import RemoteView
from harness.study.environments.sandbox import Owner
from harness.study.environments.volumes import Volumes
from harness.study.weights import Located
from harness.view_protocol import Keep, Kept, KeptState, Look, Question, Sight


def test_files_over_there_are_seen_here_and_gone_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, mirror = tmp_path / "there" / "zone0", tmp_path / "mirror"
    zone.mkdir(parents=True)
    mirror.mkdir()
    (zone / "temp").write_text("47500\n")
    monkeypatch.setattr(remote_view, "PATTERNS", (f"{tmp_path}/there/zone*/t???",))
    seen = RemoteView(process_of(Peer()), mirror, BOARD)
    assert (seen.root / str(zone / "temp").lstrip("/")).read_text() == "47500"
    assert seen.machine.threads >= 1
    assert seen.machine.memory_available_bytes > 0
    (zone / "temp").unlink()
    (zone / "type").write_text("tj")
    seen.pause(0.0)
    assert [path.name for path in sorted(mirror.rglob("*")) if path.is_file()] == ["type"]


def test_no_name_leads_out_of_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    remote_view.mirror({"/../../escaped": "x", "/sys/kept": "y"}, tmp_path / "mirror")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]


@pytest.mark.parametrize("ahead_ns", [0, 3_600_000_000_000, -7_000_000_000])
def test_the_other_clock_is_known_to_half_the_way_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_ns: int
) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    before_ns = now_ns()
    seen = RemoteView(process_of(Peer(ahead_ns)), tmp_path, BOARD)
    assert abs(seen.offset_ns - ahead_ns) <= now_ns() - before_ns


def test_the_power_mode_is_read_from_what_nvpmodel_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    seen = RemoteView(process_of(Peer()), tmp_path, BOARD)
    assert seen.ask(["nvpmodel", "-q"]) is None
    files = {
        "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
        "/var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull",
    }
    remote_view.mirror(files, tmp_path)
    assert seen.ask(["nvpmodel", "-q"]) == "NV Power Mode: MAXN_SUPER"
    assert seen.ask(["pmset", "-g"]) is None


def test_a_view_that_does_not_answer_is_a_lost_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_view, "PATTERNS", ())
    peer = Peer()
    seen = RemoteView(process_of(peer), tmp_path, BOARD)
    peer.gone = True
    with pytest.raises(HostLost, match=rf"{BOARD}: .*--resume"):
        seen.refresh()


def test_the_process_that_looks_answers_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    questions: list[Question] = [
        Look(patterns=(f"{tmp_path}/*",)),
        Keep(folder=str(tmp_path), name="m", size_bytes=1, sha256=""),
    ]
    out = io.BytesIO()
    view.serve(io.BytesIO(b"".join(map(view_protocol.encode, questions))), out)
    sight, kept = map(view_protocol.decode_answer, out.getvalue().splitlines())
    assert isinstance(sight, Sight)
    assert sight.files == {f"{tmp_path}/a": "1"}
    assert kept == Kept(state=KeptState.MISSING)


def test_what_was_brought_gets_its_name_only_with_the_right_hash(tmp_path: Path) -> None:
    content = b"weights"
    right = hashlib.sha256(content).hexdigest()
    wanted = Keep(folder=str(tmp_path), name="m.gguf", size_bytes=len(content), sha256=right)
    part = tmp_path / view_protocol.partial("m.gguf")
    part.write_bytes(b"weightS")
    kept = view.answer(wanted)
    assert isinstance(kept, Kept)
    assert (kept.state, part.exists()) == (KeptState.WRONG, False)
    part.write_bytes(content)
    assert view.answer(wanted) == Kept(state=KeptState.HERE)
    assert (tmp_path / "m.gguf").read_bytes() == content
    (tmp_path / "m.gguf").write_bytes(b"cut")
    assert view.answer(wanted) == Kept(state=KeptState.MISSING)


@pytest.mark.parametrize("size", [0, 1, 512, 1_000_000, (1 << 20) + 7])
def test_weights_travel_as_a_tar_archive(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    told: list[tuple[int, int]] = []
    sent = b"".join(volumes.archive(path, "m.gguf.part", lambda done, total: told.append((done, total))))
    with tarfile.open(fileobj=io.BytesIO(sent)) as archive:
        member = archive.getmember("m.gguf.part")
        stream = archive.extractfile(member)
        assert stream is not None
        assert stream.read() == path.read_bytes()
        assert member.mode == 0o644
    assert not size or told[-1] == (size, size)


class Warehouse:
    """An engine with volumes that are folders; `spoil` changes what arrives."""

    where = BOARD

    def __init__(self, folder: Path, *, spoil: bool = False) -> None:
        self._folder, self._spoil = folder, spoil
        self.uploads: list[str] = []

    def put(self, container_id: str, folder: str, archive: Iterator[bytes]) -> None:
        self.uploads.append(container_id)
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as stream:
            stream.extractall(self._folder, filter="data")
        if self._spoil:
            next(self._folder.glob("*.part")).write_bytes(b"other")


class Silent:
    """Nobody listens."""

    def step(self, text: str) -> None:
        """Nothing."""

    def bytes_done(self, done: int, total: int) -> None:
        """Nothing."""


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Located]]:
    """Two plan entries with the same bytes, and a folder that stands for their volume."""
    there = tmp_path / "there"
    there.mkdir()
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    ref = replace(studies.model_ref(studies.plan_of().model_keys()[0]), sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(volumes, "MODEL_FOLDER", str(there))
    monkeypatch.setattr(process, "launch", lambda *_a, **_k: process_of(Peer()))
    return there, [Located(path=path, ref=ref)] * 2


def test_weights_are_brought_once(stored: tuple[Path, list[Located]]) -> None:
    there, located = stored
    engine = Warehouse(there)
    for _ in range(2):
        Volumes(engine, "image", Owner.this()).bring(located, Silent())  # type: ignore[arg-type]  # engines of a shelf
    assert len(engine.uploads) == 1
    assert [path.name for path in there.iterdir()] == ["m.gguf"]


def test_other_bytes_than_were_sent_are_refused(stored: tuple[Path, list[Located]]) -> None:
    there, located = stored
    with pytest.raises(IntegrityError, match=rf"{BOARD}, m.gguf: sha256 \w+ arrived") as refused:
        # likewise
        Volumes(Warehouse(there, spoil=True), "image", Owner.this()).bring(located, Silent())  # type: ignore[arg-type]
    assert refused.value.exit_code is ExitCode.INTEGRITY
    assert list(there.iterdir()) == []
