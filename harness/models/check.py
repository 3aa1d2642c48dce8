"""Checks a GGUF file before llama.cpp sees it, and tells what is in it.

A file that passes has a sound header and exactly the tensor data that its table promises; whether the bytes are the
right ones only their hash can tell (`harness.models.checksums`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from harness.errors import IntegrityError
from harness.models.files import open_regular
from harness.models.gguf_header import Header, RawTensor, Value, read_header
from harness.records import Struct

DEFAULT_ALIGNMENT_BYTES = 32
MAX_ALIGNMENT_BYTES = 1 << 20
MAX_ELEMENTS = 1 << 48
ROW_LOOKUPS = ("token_embd.weight", "per_layer_token_embd.weight")  # read one row a token


class Tensor(Struct, frozen=True):
    """A tensor and where it lies."""

    name: str
    shape: tuple[int, ...]  # GGUF's order: row length first
    type_name: str  # ggml's name: Q4_K, F32, ...
    size_bytes: int
    offset_bytes: int  # from the start of the file

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class GgufFile(Struct, frozen=True):
    """A GGUF file that passed."""

    version: int
    architecture: str
    file_type: str  # Q4_K_M, F16, ...; "" where the file does not say
    size_bytes: int
    metadata: dict[str, Value]  # scalars, texts and short arrays of numbers
    array_lengths: dict[str, int]  # every array, kept or not
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    def count(self, key: str) -> int:
        """A whole-number hyperparameter of this architecture, such as `expert_count`; 0 where the file has none."""
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return value if isinstance(value, int) else 0


class WeightBytes(Struct, frozen=True):
    """Tensor data of a file: all of it, and what one generated token reads."""

    total_bytes: int
    active_bytes: int


def check(path: Path, *, architecture: str = "", file_type: str = "") -> GgufFile:
    """Checks the file, and that it is of the given architecture and file type ("": any).

    Never blocks on a FIFO, never follows a loop of links, reads the header only (at most 256 MiB of it) and keeps
    well under 200 MB of memory whatever the file claims.

    Raises:
        IntegrityError: the file is not there, not a regular file, or faulty; the message says in what.
    """
    with os.fdopen(open_regular(path), "rb", buffering=1 << 16) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        header = read_header(stream, size_bytes, str(path))
    found = _examine(header, size_bytes, str(path))
    for what, wanted, have in (
        ("architecture", architecture, found.architecture),
        ("file type", file_type, found.file_type),
    ):
        if wanted and wanted != have:
            raise _fault(f"{what} is {have or 'not told'}, expected {wanted}", str(path))
    return found


def weight_bytes(file: GgufFile) -> WeightBytes:
    """Bytes of weights, total and read per generated token.

    Active: expert tensors count by used/all experts; a token embedding counts one row, unless the output head is tied
    to it and so reads it whole. Method: by tensor names of llama.cpp's architectures.
    """
    tied = not any(tensor.name == "output.weight" for tensor in file.tensors)
    return WeightBytes(
        total_bytes=sum(tensor.size_bytes for tensor in file.tensors),
        active_bytes=sum(_read_per_token_bytes(tensor, file, tied) for tensor in file.tensors),
    )


def active_parameters(file: GgufFile) -> int:
    """Weights less those of experts that a token is not routed to: the papers' convention, embeddings included."""
    return sum(_routed_share(tensor.elements, tensor, file) for tensor in file.tensors)


def _read_per_token_bytes(tensor: Tensor, file: GgufFile, tied: bool) -> int:
    is_head = tied and tensor.name == "token_embd.weight"
    if tensor.name in ROW_LOOKUPS and not is_head:
        return tensor.size_bytes // math.prod(tensor.shape[1:])
    return _routed_share(tensor.size_bytes, tensor, file)


def _routed_share(amount: int, tensor: Tensor, file: GgufFile) -> int:
    """Expert tensors hold their experts in equal slices along the last dimension."""
    experts = file.count("expert_count")
    if not experts or "_exps." not in tensor.name:
        return amount
    return amount * file.count("expert_used_count") // experts


def _fault(what: str, where: str) -> IntegrityError:
    return IntegrityError(what, where=where, cure="fetch or generate it anew")


def _examine(header: Header, size_bytes: int, where: str) -> GgufFile:
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _fault("names no architecture", where)
    return GgufFile(
        version=header.version,
        architecture=architecture,
        file_type=_file_type(header.metadata.get("general.file_type")),
        size_bytes=size_bytes,
        metadata=header.metadata,
        array_lengths=header.array_lengths,
        tensors=tuple(_tensors(header, size_bytes, where)),
    )


def _tensors(header: Header, size_bytes: int, where: str) -> Iterator[Tensor]:
    """The tensor table with sizes; like llama.cpp it wants them end to end, each aligned, up to the end of the file."""
    alignment = _alignment(header, where)
    start = _aligned(header.end_bytes, alignment)
    names: set[str] = set()
    end = expected = 0
    for raw in header.tensors:
        if raw.name in names:
            raise _fault(f"tensor {raw.name!r} stands twice", where)
        names.add(raw.name)
        type_name, bytes_needed = _size(raw, where)
        if raw.offset_bytes != expected:
            what = f"tensor {raw.name!r} starts at {raw.offset_bytes}, expected {expected}"
            raise _fault(what, where)
        end = start + raw.offset_bytes + bytes_needed
        if end > size_bytes:
            what = f"tensor {raw.name!r} ends at byte {end}, the file has {size_bytes}: truncated"
            raise _fault(what, where)
        expected = _aligned(raw.offset_bytes + bytes_needed, alignment)
        yield Tensor(
            name=raw.name,
            shape=raw.shape,
            type_name=type_name,
            size_bytes=bytes_needed,
            offset_bytes=start + raw.offset_bytes,
        )
    _refuse_surplus(end, size_bytes, alignment, where)


def _refuse_surplus(end: int, size_bytes: int, alignment: int, where: str) -> None:
    if not end:
        raise _fault("holds no tensors", where)
    if size_bytes > _aligned(end, alignment):
        what = f"{size_bytes - end} bytes follow the last tensor, at most {alignment - 1} of padding may"
        raise _fault(what, where)


def _alignment(header: Header, where: str) -> int:
    value = header.metadata.get("general.alignment", DEFAULT_ALIGNMENT_BYTES)
    if not isinstance(value, int) or not 1 <= value <= MAX_ALIGNMENT_BYTES or value & (value - 1):
        raise _fault(f"alignment {value!r} is no power of two", where)
    return value


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _size(raw: RawTensor, where: str) -> tuple[str, int]:
    """Name of the type and bytes of the tensor, by ggml's block sizes."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  (loads numpy)

    try:
        kind = GGMLQuantizationType(raw.type_id)
    except ValueError:
        what = f"tensor {raw.name!r} has the unknown type {raw.type_id}"
        raise _fault(what, where) from None
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    elements = math.prod(raw.shape)
    if not 1 <= elements <= MAX_ELEMENTS or raw.shape[0] % block_elements:
        what = f"tensor {raw.name!r} has the shape {raw.shape}, impossible for {kind.name}"
        raise _fault(what, where)
    return str(kind.name), elements // block_elements * block_bytes


def _file_type(number: Value | None) -> str:
    """llama.cpp's name of a file type without its prefix; "" for none, the number itself for one not known here."""
    from gguf.constants import LlamaFileType  # noqa: PLC0415  (loads numpy)

    if not isinstance(number, int):
        return ""
    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return str(number)
