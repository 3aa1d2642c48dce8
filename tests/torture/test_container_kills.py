"""kill -9 of containers, of workers inside them, of their runner and its sampler: nothing lost, no container left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker_engine
import pytest
from container_ground import Built, ContainerGround, image_on_an_engine
from torture import WHOLE, count
from torturer import Torturer

MISSING = docker_engine.missing()
KINDS = ("runner", "worker", "sampler", "container", "container")

pytestmark = [
    pytest.mark.torture,
    pytest.mark.docker,
    pytest.mark.skipif(bool(MISSING), reason=f"no engine of our own: {MISSING}"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with image_on_an_engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.mark.parametrize("part", range(2 if WHOLE else 1))
def test_containers_killed_at_random_moments(
    built: Built, tmp_path: Path, part: int, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "weights" / "models"
    torturer = Torturer(tmp_path, lambda folder: ContainerGround(folder, models, built), KINDS, 5.0, part)
    torturer.run(count(bounded=4, whole=10))
    with capsys.disabled():
        print(f"\ncontainers: {torturer}")  # noqa: T201 - what was tried, for the reader of the log
