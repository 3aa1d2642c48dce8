"""Weights on another machine: a volume a model, named by the hash, filled through the engine, hashed over there."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness import view_protocol
from harness.errors import IntegrityError
from harness.study.environments import process, sandbox
from harness.study.environments.container import Engine
from harness.study.environments.process import ContainerProcess
from harness.study.environments.remote_view import VIEW, ask
from harness.study.environments.sandbox import MODEL_FOLDER, Owner
from harness.study.weights import Listener, Located
from harness.units import human_bytes
from harness.view_protocol import Keep, Kept, KeptState

HASH_S = 600.0  # a slow card reads 20 MB/s
CHUNK_BYTES = 1 << 20
Progress = Callable[[int, int], None]


class Volumes:
    """The volumes of one engine."""

    def __init__(self, engine: Engine, image_id: str, owner: Owner) -> None:
        self._engine = engine
        self._image_id = image_id
        self._owner = owner

    def bring(self, located: Iterable[Located], listener: Listener) -> None:
        """Upload what is not there yet; a broken upload is begun anew.

        Raises:
            IntegrityError: other bytes arrived than were sent.
            EnvironmentLacking: no space over there.
        """
        for sha256, one in {one.ref.sha256: one for one in located}.items():
            keeper = self._keeper(sha256)
            try:
                self._bring(keeper, one, listener)
            finally:
                keeper.wait()

    def _bring(self, keeper: ContainerProcess, one: Located, listener: Listener) -> None:
        if self._kept(keeper, one).state is KeptState.HERE:
            return
        size = human_bytes(one.path.stat().st_size)
        listener.step(f"uploading {one.path.name}, {size}, to {self._engine.where}")
        name = view_protocol.partial(one.path.name)
        self._engine.put(keeper.container_id, MODEL_FOLDER, archive(one.path, name, listener.bytes_done))
        kept = self._kept(keeper, one)
        if kept.state is not KeptState.HERE:
            what = f"sha256 {kept.found_sha256} arrived, {one.ref.sha256} was sent"
            raise IntegrityError(what, where=f"{self._engine.where}, {one.path.name}", cure="run the command again")

    def _kept(self, keeper: ContainerProcess, one: Located) -> Kept:
        size = one.path.stat().st_size
        wanted = Keep(folder=MODEL_FOLDER, name=one.path.name, size_bytes=size, sha256=one.ref.sha256)
        kept = ask(keeper, wanted, self._engine.where, HASH_S)
        return kept if isinstance(kept, Kept) else Kept(state=KeptState.WRONG)

    def _keeper(self, sha256: str) -> ContainerProcess:
        """Root without any capability: the engine gives a new volume to root."""
        mount = {"Type": "volume", "Source": sandbox.volume(sha256), "Target": MODEL_FOLDER}
        return process.launch(
            self._engine,
            self._image_id,
            host=sandbox.shut() | {"mounts": [mount]},
            labels=self._owner.labels("weights"),
            user="0:0",
            module=VIEW,
        )


def archive(path: Path, name: str, progress: Progress) -> Iterator[bytes]:
    """A tar archive of one file that everybody may read, as it is read."""
    total = path.stat().st_size
    member = tarfile.TarInfo(name)
    member.size, member.mode = total, 0o644
    yield member.tobuf(tarfile.GNU_FORMAT)
    done = 0
    with path.open("rb") as stream:
        while block := stream.read(CHUNK_BYTES):
            done += len(block)
            yield block
            progress(done, total)
    yield bytes(-total % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
