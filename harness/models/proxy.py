"""Architecture-faithful proxies: GGUF files with a real model's shapes and types and random values.

Speed, memory and energy of a decode step depend on shapes and types, hardly on values. Such a file needs no download,
holds no vocabulary (tokens are fed as ids), and the same shape, file type and seed give the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from harness.errors import EnvironmentLacking, IntegrityError, UsageError
from harness.models import check, shapes
from harness.models.contents import Filling
from harness.models.proxy_file import Progress, Stamp, stamp, write_layout
from harness.models.proxy_layout import plan
from harness.models.registry import Model
from harness.models.shapes import Shape
from harness.records import Struct

WRITER_VERSION = 3  # raise it when the same request would give other bytes
DEFAULT_SEED = 1


class ProxyFile(Struct, frozen=True):
    """A proxy on disk and all that a record tells of it."""

    path: Path
    sha256: str
    size_bytes: int
    name: str
    architecture: str
    file_type: str
    variant: str
    parameters_total: int
    parameters_active: int
    expert_count: int
    expert_used_count: int
    weight_bytes_total: int
    weight_bytes_active: int
    tensors: tuple[check.Tensor, ...]


class Request(Struct, frozen=True):
    """What determines the bytes of a proxy."""

    shape: Shape
    file_type: str
    seed: int = DEFAULT_SEED
    router_skew: float = 0.0

    @property
    def variant(self) -> str:
        """What was varied, for records and file names."""
        skew = f"router-skew={self.router_skew:g}" if self.router_skew else ""
        return ",".join(part for part in (self.shape.variant, skew) if part)

    def key(self) -> str:
        """Sixteen hexadecimal digits that differ wherever the bytes may differ."""
        made_by = f"writer {WRITER_VERSION}, llama-cpp-python {_binding_version()}"
        text = msgspec.json.encode(self, order="deterministic") + made_by.encode()
        return hashlib.sha256(text).hexdigest()[:16]

    def file_name(self) -> str:
        """Speaks to people; the key makes it unique."""
        parts = (self.shape.name or self.shape.architecture, self.variant, self.file_type, self.key())
        return "-".join(part.replace(",", "-") for part in parts if part) + ".proxy.gguf"


def ensure(
    model: Model | Shape,
    file_type: str,
    seed: int = DEFAULT_SEED,
    *,
    cache_dir: Path,
    progress: Progress | None = None,
    router_skew: float = 0.0,
) -> ProxyFile:
    """The proxy from the cache, written first where it is not there; safe to call from several processes at once.

    Args:
        model: a registry entry or a shape.
        file_type: llama.cpp's name: Q4_K_M, Q8_0, F16, ...
        seed: of the random values.
        cache_dir: folder of proxies, made where missing.
        progress: told of bytes done and bytes in all while writing.
        router_skew: exponent of a Zipf law of expert use; 0 is uniform.

    Raises:
        UsageError: unknown file type or architecture, or a skew for a dense model.
        ConfigError: a registry entry without a fitting shape.
        EnvironmentLacking: no disk space, no permission, or no llama.cpp.
    """
    request = _request(model, file_type, seed, router_skew)
    path = cache_dir / request.file_name()
    with _lock(path):
        found = _valid_stamp(path)
        if found is None:
            found = _write(request, path, progress)
            _stamp_path(path).write_bytes(msgspec.json.encode(found))
    return describe(path, found, request.shape.name, request.variant)


def write(
    model: Model | Shape,
    file_type: str,
    seed: int = DEFAULT_SEED,
    *,
    out: Path,
    progress: Progress | None = None,
    router_skew: float = 0.0,
) -> ProxyFile:
    """Writes the proxy to `out`, complete or not at all; arguments and errors as in `ensure`."""
    request = _request(model, file_type, seed, router_skew)
    return describe(out, _write(request, out, progress), request.shape.name, request.variant)


def size_bytes(model: Model | Shape, file_type: str) -> int:
    """Bytes that the proxy's tensors would take, without writing it (a header adds some kilobytes)."""
    return plan(_request(model, file_type, DEFAULT_SEED, 0.0).shape, file_type).data_bytes


def _request(model: Model | Shape, file_type: str, seed: int, router_skew: float) -> Request:
    shape = model if isinstance(model, Shape) else shapes.of(model)
    if router_skew < 0:
        raise UsageError(f"a router skew of {router_skew} is negative", where=shape.name)
    if router_skew and not shape.experts:
        raise UsageError("a dense model has no router to skew", where=shape.name or shape.architecture)
    return Request(shape=shape, file_type=file_type, seed=seed, router_skew=float(router_skew))


def _write(request: Request, path: Path, progress: Progress | None) -> Stamp:
    shape = request.shape
    filling = Filling(
        seed=request.seed,
        embedding_scale=shape.embedding_scale,
        tied=shape.tied,
        router_skew=request.router_skew,
        experts_used=shape.experts_used,
    )
    return write_layout(plan(shape, request.file_type), filling, path, progress)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer a file; the others wait and then find it complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise EnvironmentLacking(
            f"cannot use the cache: {error.strerror or error}", where=str(path.parent), cure="choose another folder"
        ) from None


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _valid_stamp(path: Path) -> Stamp | None:
    """The stamp of a cached file that has not changed since; None where it must be written anew."""
    try:
        found = msgspec.json.decode(_stamp_path(path).read_bytes(), type=Stamp)
        return found if stamp(path, found.sha256) == found else None
    except (OSError, ValueError, RecursionError):
        return None


def describe(path: Path, stamped: Stamp, name: str, variant: str) -> ProxyFile:
    """Reads the finished file back through the same check that released weights pass."""
    found = check.check(path)
    if found.size_bytes != stamped.size_bytes:
        raise IntegrityError("changed while it was read", where=str(path), cure="write it anew")
    weights = check.weight_bytes(found)
    return ProxyFile(
        path=path,
        sha256=stamped.sha256,
        size_bytes=stamped.size_bytes,
        name=name,
        architecture=found.architecture,
        file_type=found.file_type,
        variant=variant,
        parameters_total=found.parameters,
        parameters_active=check.active_parameters(found),
        expert_count=found.count("expert_count"),
        expert_used_count=found.count("expert_used_count"),
        weight_bytes_total=weights.total_bytes,
        weight_bytes_active=weights.active_bytes,
        tensors=found.tensors,
    )


def _binding_version() -> str:
    """The binding's version pins the vendored llama.cpp; asking the library itself would cost a process."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "none"
