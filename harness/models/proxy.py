"""Architecture-faithful proxies: GGUF files with a real model's shapes and types and random values.

Speed, memory and energy of a decode step depend on shapes and types, hardly on values. Such a file needs no download,
holds no vocabulary (tokens are fed as ids), and the same shape, file type and seed give the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from harness.errors import EnvironmentLacking, IntegrityError, UsageError
from harness.models import check, shapes
from harness.models.contents import Filler, Filling, Placed
from harness.models.proxy_layout import Layout, padded, plan, write_header
from harness.models.registry import Model
from harness.models.shapes import Shape
from harness.records import Struct
from harness.units import human_bytes

WRITER_VERSION = 1  # raise it when the same request would give other bytes
SPARE_BYTES = 256 << 20  # left free on the disk
HASHES_AHEAD = 8  # pieces that may wait for the hash
DEFAULT_SEED = 1

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Stamp(Struct, frozen=True):
    """What a file looked like when its hash was taken."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int


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
        stamp = _valid_stamp(path)
        if stamp is None:
            stamp = _write(request, path, progress)
            _stamp_path(path).write_bytes(msgspec.json.encode(stamp))
    return _describe(path, stamp, request.shape.name, request.variant)


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
    return _describe(out, _write(request, out, progress), request.shape.name, request.variant)


def size_bytes(model: Model | Shape, file_type: str) -> int:
    """Bytes that the proxy's tensors would take, without writing it (a header adds some kilobytes)."""
    return plan(_request(model, file_type, DEFAULT_SEED, 0.0).shape, file_type).data_bytes


def clone(source: Path, *, out: Path, seed: int = DEFAULT_SEED, progress: Progress | None = None) -> ProxyFile:
    """A proxy with tensors, types and hyperparameters of any GGUF file, and no vocabulary.

    Raises:
        IntegrityError: the source is no sound GGUF file.
        UsageError: a type whose blocks cannot be made, or no vocabulary size to declare.
        EnvironmentLacking: as in `ensure`.
    """
    original = check.check(source)
    if out.exists() and out.samefile(source):
        raise UsageError("a clone would overwrite its source", where=str(out), cure="choose another --out")
    stamp = _write_layout(clone_layout(original), _clone_filling(original, seed), out, progress)
    return _describe(out, stamp, source.stem, "clone")


def clone_layout(original: check.GgufFile) -> Layout:
    """Header of a clone: the architecture's own keys, without tokenizer and authorship."""
    prefix = f"{original.architecture}."
    kept = {key: value for key, value in original.metadata.items() if key.startswith(prefix)}
    for key in ("general.name", "general.file_type", "general.quantization_version"):
        if key in original.metadata:
            kept[key] = original.metadata[key]
    kept[f"{prefix}vocab_size"] = _vocabulary(original)
    kept["tokenizer.ggml.model"] = "none"
    placed = tuple(
        Placed(name=tensor.name, dims=tensor.shape, type_name=tensor.type_name, size_bytes=tensor.size_bytes)
        for tensor in original.tensors
    )
    return Layout(architecture=original.architecture, metadata=msgspec.convert(kept, dict), tensors=placed)


def _vocabulary(original: check.GgufFile) -> int:
    """Rows of the embedding, which the graph multiplies by; a tokenizer may have fewer tokens."""
    for tensor in original.tensors:
        if tensor.name == "token_embd.weight":
            return tensor.shape[1]
    raise UsageError("the file has no token embedding to tell its vocabulary from", where=original.architecture)


def _clone_filling(original: check.GgufFile, seed: int) -> Filling:
    """Gemma scales embeddings by the root of their width, Granite by a key of its own."""
    scale = original.metadata.get(f"{original.architecture}.embedding_scale", 1.0)
    if original.architecture.startswith("gemma"):
        scale = original.count("embedding_length") ** 0.5
    used = original.count("expert_used_count")
    tied = all(tensor.name != "output.weight" for tensor in original.tensors)
    return Filling(seed=seed, embedding_scale=float(scale), tied=tied, experts_used=used)  # type: ignore[arg-type]


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
    return _write_layout(plan(shape, request.file_type), filling, path, progress)


def _write_layout(layout: Layout, filling: Filling, path: Path, progress: Progress | None) -> Stamp:
    """Header and data into a file beside `path`, renamed when complete and on disk."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_space(path.parent, layout.data_bytes)
        header_bytes = write_header(layout, part)
        sha256 = _append_data(layout, Filler(filling), part, header_bytes, progress)
        part.replace(path)
    except OSError as error:
        raise EnvironmentLacking(
            f"cannot write: {error.strerror or error}", where=str(path), cure="free some disk, or choose another folder"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return _stamp(path, sha256)


def _append_data(layout: Layout, filler: Filler, part: Path, header_bytes: int, progress: Progress | None) -> str:
    """Appends all tensors; the hash is computed in a thread beside, from the same memory."""
    digest = hashlib.sha256(part.read_bytes())
    total, done = header_bytes + layout.data_bytes, header_bytes
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "sha256") as hasher, part.open("ab", buffering=0) as stream:
        for piece in _data(layout, filler):
            waiting.append(hasher.submit(digest.update, piece))
            _write_all(stream.fileno(), piece)
            if len(waiting) > HASHES_AHEAD:
                waiting.popleft().result()
            done += len(piece)
            if progress is not None:
                progress(done, total)
        os.fsync(stream.fileno())  # also: no write-back disturbs the measurement that follows
    return digest.hexdigest()


def _data(layout: Layout, filler: Filler) -> Iterator[memoryview]:
    for tensor in layout.tensors:
        yield from filler.pieces(tensor)
        if padding := padded(tensor.size_bytes) - tensor.size_bytes:
            yield memoryview(bytes(padding))


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]


def _require_space(folder: Path, wanted_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes + SPARE_BYTES:
        raise EnvironmentLacking(
            f"{human_bytes(wanted_bytes)} are to be written, {human_bytes(free)} are free",
            where=str(folder),
            cure="free some disk, or choose another folder for the cache",
        )


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


def _stamp(path: Path, sha256: str) -> Stamp:
    status = path.stat()
    return Stamp(sha256=sha256, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def _valid_stamp(path: Path) -> Stamp | None:
    """The stamp of a cached file that has not changed since; None where it must be written anew."""
    try:
        stamp = msgspec.json.decode(_stamp_path(path).read_bytes(), type=Stamp)
        return stamp if _stamp(path, stamp.sha256) == stamp else None
    except (OSError, msgspec.DecodeError):
        return None


def _describe(path: Path, stamp: Stamp, name: str, variant: str) -> ProxyFile:
    """Reads the finished file back through the same check that released weights pass."""
    found = check.check(path)
    if found.size_bytes != stamp.size_bytes:
        raise IntegrityError("changed while it was read", where=str(path), cure="write it anew")
    weights = check.weight_bytes(found)
    return ProxyFile(
        path=path,
        sha256=stamp.sha256,
        size_bytes=stamp.size_bytes,
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
