"""From a shape and a file type to the layout of a GGUF file: types by llama.cpp's quantizer, header by `gguf`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import BundleError, EnvironmentLacking, UsageError
from harness.models.contents import Placed
from harness.models.gguf_header import Scalar, Value
from harness.models.shapes import Shape
from harness.models.templates import Metadata, TensorShape, metadata, tensors
from harness.records import Struct

ALIGNMENT_BYTES = 32
QUANTIZER_TIMEOUT_S = 120
QUANTIZATION_VERSION = 2
UNSIGNED_32 = 1 << 32


class Layout(Struct, frozen=True):
    """Header and tensor table of a file to be written; metadata keys are complete."""

    architecture: str
    metadata: Metadata
    tensors: tuple[Placed, ...]

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data with their padding."""
        return sum(padded(tensor.size_bytes) for tensor in self.tensors)


def padded(size_bytes: int) -> int:
    """The size with the padding after it."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def plan(shape: Shape, file_type: str) -> Layout:
    """The layout that llama.cpp's quantizer would give to a model of this shape.

    Raises:
        UsageError: an unknown file type or architecture, or a shape that llama.cpp refuses.
        EnvironmentLacking: the quantizer cannot be run.
    """
    types = quantizer_plan(shape, file_type)
    placed = tuple(place(tensor, types[tensor.name]) for tensor in tensors(shape))
    return Layout(architecture=shape.architecture, metadata=full_metadata(shape, file_type), tensors=placed)


def place(tensor: TensorShape, type_name: str) -> Placed:
    """A tensor with its type and size.

    Raises:
        UsageError: the type does not divide the rows.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  (loads numpy)

    per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    if tensor.dims[0] % per_block:
        raise UsageError(f"rows of {tensor.dims[0]} do not divide into blocks of {per_block}", where=tensor.name)
    size = tensor.elements // per_block * block_bytes
    return Placed(name=tensor.name, dims=tensor.dims, type_name=type_name, size_bytes=size)


def full_metadata(shape: Shape, file_type: str) -> Metadata:
    """All keys of the file, the vocabulary declared as none."""
    keys: Metadata = {
        "general.name": f"proxy of {shape.name or shape.architecture}",
        "general.file_type": _file_type_number(file_type, shape.name),
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    keys.update({f"{shape.architecture}.{key}": value for key, value in metadata(shape).items()})
    return {**keys, "tokenizer.ggml.model": "none"}


def quantizer_plan(shape: Shape, file_type: str) -> Mapping[str, str]:
    """Types by tensor, upper case, from a dry run on a file whose tensor data is a hole.

    Raises:
        UsageError: llama.cpp refused; its words are in the message.
        EnvironmentLacking: the process could not be run or crashed.
    """
    shapes = tensors(shape)
    sparse = Layout(
        architecture=shape.architecture,
        metadata=full_metadata(shape, "F16"),
        tensors=tuple(place(tensor, "F32" if tensor.stays_f32 else "F16") for tensor in shapes),
    )
    with tempfile.TemporaryDirectory(prefix="quantizer-plan-") as folder:
        path = Path(folder) / "sparse-f16.gguf"
        write_sparse(sparse, path)
        planned = _ask_quantizer(path, file_type)
    types = {name: type_name.upper() for name, type_name in planned.items()}
    missing = [tensor.name for tensor in shapes if tensor.name not in types]
    if missing:
        raise EnvironmentLacking(
            f"llama.cpp's quantizer did not name {len(missing)} tensors, the first is {missing[0]}",
            where=shape.name or shape.architecture,
            cure="use the pinned llama.cpp; its log may have changed",
        )
    return types


def write_sparse(layout: Layout, path: Path) -> None:
    """Header, then a hole as long as the tensor data: a few kilobytes on disk."""
    header_bytes = write_header(layout, path)
    with path.open("r+b") as stream:
        stream.truncate(header_bytes + layout.data_bytes)


def write_header(layout: Layout, path: Path) -> int:
    """Writes the header with its padding; returns its size in bytes."""
    import gguf  # noqa: PLC0415  (loads numpy)
    import numpy as np  # noqa: PLC0415

    writer = gguf.GGUFWriter(path, layout.architecture)
    for key, value in layout.metadata.items():
        _add(writer, gguf.GGUFValueType, key, value)
    for tensor in layout.tensors:
        kind = gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.dims[::-1], np.dtype(np.float16), tensor.size_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    size = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(bytes(padded(size) - size))
    return padded(size)


def _add(writer: Any, kinds: Any, key: str, value: Value) -> None:
    """Whole numbers as u32 where they fit, which llama.cpp wants of hyperparameters."""
    if isinstance(value, tuple):
        writer.add_key_value(key, list(value), kinds.ARRAY)
    else:
        writer.add_key_value(key, value, kinds[_kind(value)])


def _kind(value: str | Scalar) -> str:
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        return "UINT32" if 0 <= value < UNSIGNED_32 else "INT64" if value >= UNSIGNED_32 else "INT32"
    return "FLOAT32" if isinstance(value, float) else "STRING"


def _file_type_number(file_type: str, where: str) -> int:
    from gguf.constants import LlamaFileType  # noqa: PLC0415

    for prefix in ("MOSTLY_", "ALL_"):
        if prefix + file_type in LlamaFileType.__members__:
            return int(LlamaFileType[prefix + file_type])
    names = ", ".join(sorted(name.split("_", 1)[1] for name in LlamaFileType.__members__ if name != "GUESSED"))
    raise UsageError(f"no file type {file_type!r}", where=where, cure=f"choose among {names}")


def _ask_quantizer(path: Path, file_type: str) -> Mapping[str, str]:
    command = [sys.executable, "-m", "harness.llamacpp.quantizer", str(path), file_type]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # an abort must end with its own words, not a debugger's
            capture_output=True,
            text=True,
            timeout=QUANTIZER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentLacking(f"llama.cpp's quantizer cannot be run: {error}", cure="./artifact doctor") from None
    if done.returncode == 0:
        return {str(name): str(kind) for name, kind in json.loads(done.stdout).items()}
    raise _refusal(done)


def _refusal(done: subprocess.CompletedProcess[str]) -> BundleError:
    words = done.stderr.strip().splitlines()[-1:] or ["no message"]
    if done.returncode == 2:
        return UsageError(words[0], where="llama.cpp's quantizer", cure="choose another file type or shape")
    return EnvironmentLacking(
        f"llama.cpp's quantizer ended with {done.returncode}: {words[0]}", cure="./artifact doctor"
    )
