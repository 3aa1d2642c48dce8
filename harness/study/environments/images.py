"""Which images there are, and the context and arguments of their builds; nothing here speaks to an engine."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from msgspec import Meta

from harness.config_tables import read_toml
from harness.errors import EnvironmentLacking, UsageError
from harness.records import Struct
from harness.terms import DeviceKind

REPOSITORY = "moe-edge-bundle"
LABEL_CONTEXT = "moe-bundle.context-sha256"
LABEL_LOCK = "moe-bundle.lock-sha256"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
LOCKS = ("requirements/build.lock", "requirements/runtime.lock")
WORKER_ROOMS = ("measure", "llamacpp")
WORKER_FILES = ("harness/*.py", *(f"harness/{room}/**/*.py" for room in WORKER_ROOMS))


class Base(Struct, frozen=True):
    """An image to build on."""

    reference: Annotated[str, Meta(min_length=1)]
    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    seen: datetime.date  # when the reference had this digest

    @property
    def pinned(self) -> str:
        """As a Dockerfile names it."""
        return f"{self.reference}@{self.digest}"


class Image(Struct, frozen=True):
    """One image of docker/images.toml."""

    device: DeviceKind
    platforms: tuple[str, ...]
    needed_bytes: Annotated[int, Meta(gt=0)]  # free disk that a build takes
    packages: tuple[str, ...]
    build_packages: tuple[str, ...]
    cmake_args: str
    build_base: Base
    runtime_base: Base
    l4t_release: int = 0  # 0: any; else the major release of Jetson Linux whose driver fits


class Images(Struct, frozen=True):
    """docker/images.toml."""

    source_date_epoch: int
    llama_cpp_commit: str
    minimum_api: str
    images: dict[str, Image]

    def for_device(self, device: DeviceKind) -> tuple[str, Image]:
        """Name and image for a device.

        Raises:
            EnvironmentLacking: there is none (Metal does not reach into a container).
        """
        for name, image in self.images.items():
            if image.device is device:
                return name, image
        raise EnvironmentLacking(
            f"there is no image for {device.value}", where="docker/images.toml", cure="use --env native"
        )


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a user may change about a build."""

    wheelhouse: Path | None = None  # with it the build has no network
    base: str = ""  # in place of both bases, by any reference that the engine knows
    index_url: str = ""  # package index; the engine keeps it in the build stage only
    ca_bundle: Path | None = None
    native: bool = False  # tuned to this machine's CPU, as a native build is


def load(root: Path) -> Images:
    """docker/images.toml; ConfigError with all its faults."""
    return read_toml(root / "docker" / "images.toml", Images)


def tag(name: str) -> str:
    """What an image is called on the engine."""
    return f"{REPOSITORY}-{name}:latest"


def dockerfile(name: str) -> str:
    """Path of an image's Dockerfile within the checkout and the context."""
    return f"docker/{name}/Dockerfile"


def build_args(root: Path, images: Images, name: str, options: BuildOptions, git_commit: str) -> dict[str, str]:
    """Arguments of the Dockerfile."""
    image = images.images[name]
    flags = image.cmake_args
    arguments = {
        "BUILD_BASE": options.base or image.build_base.pinned,
        "RUNTIME_BASE": options.base or image.runtime_base.pinned,
        "CMAKE_ARGS": flags.replace("-DGGML_NATIVE=OFF", "-DGGML_NATIVE=ON") if options.native else flags,
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        "SOURCE_DATE_EPOCH": str(images.source_date_epoch),
        "GIT_COMMIT": git_commit,
        "LOCK_SHA256": hashlib.sha256((root / "requirements" / "runtime.lock").read_bytes()).hexdigest(),
        "CONTEXT_SHA256": context_sha256(root, name),
    }
    if options.wheelhouse is None:
        arguments |= {name: os.environ[name] for name in PROXIES if name in os.environ}
    return arguments | ({"PIP_INDEX_URL": options.index_url} if options.index_url else {})


def context_sha256(root: Path, name: str) -> str:
    """Identifies what of this checkout goes into an image."""
    digest = hashlib.sha256()
    for file, path in sorted(_own_files(root, name).items()):
        digest.update(f"{file}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def write_context(root: Path, images: Images, name: str, options: BuildOptions, stream: IO[bytes]) -> None:
    """The build context as a tar archive; the same files give the same bytes.

    Raises:
        UsageError: the wheelhouse or the CA bundle is not what it should be.
    """
    files = dict(_own_files(root, name)) | dict(_inputs(options))
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file, path in sorted(files.items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(file)
            member.size, member.mtime = len(content), images.source_date_epoch
            member.mode = 0o755 if file.endswith(".sh") else 0o644
            archive.addfile(member, io.BytesIO(content))


def _own_files(root: Path, name: str) -> Mapping[str, Path]:
    files = ["docker/steps.sh", dockerfile(name), "docker/inputs/README.md", *LOCKS]
    for pattern in WORKER_FILES:
        files += [path.relative_to(root).as_posix() for path in root.glob(pattern)]
    return {file: root / file for file in files}


def _inputs(options: BuildOptions) -> Iterator[tuple[str, Path]]:
    if options.ca_bundle is not None:
        if not options.ca_bundle.is_file():
            raise UsageError("no such file", where=str(options.ca_bundle), cure="--ca-bundle names a PEM file")
        yield "docker/inputs/ca.crt", options.ca_bundle
    if options.wheelhouse is not None:
        files = [path for path in options.wheelhouse.glob("*") if path.name.endswith((".whl", ".tar.gz"))]
        if not any(path.name.startswith("pip-") for path in files):
            cure = "fill it as docker/inputs/README.md tells"
            raise UsageError("no wheelhouse: it holds no pip", where=str(options.wheelhouse), cure=cure)
        yield from ((f"docker/inputs/wheels/{path.name}", path) for path in files)
