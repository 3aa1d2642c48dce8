"""Reads a GGUF header as hostile input: every count and length is bounded before anything is read or kept.

Method: the GGUF format as its specification tells it (little-endian; magic, version, counts, metadata, tensor table).
Large arrays are walked, not kept, so memory does not grow with the vocabulary.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import BinaryIO

from harness.errors import IntegrityError
from harness.records import Struct

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 262,144 tokens takes 7 MB
MAX_TENSORS = 1 << 15
MAX_PAIRS = 1 << 12
MAX_ARRAY_STRINGS = 1 << 21  # in all arrays together; the largest vocabularies have 0.8 million tokens and merges
MAX_KEPT_BYTES = 4 << 20  # keys, names, texts and short arrays together
MAX_KEY_BYTES = 1 << 10  # the format allows 64 KiB; keys are a few words
MAX_NAME_BYTES = 63  # llama.cpp's limit
KEPT_ELEMENT_BYTES = 40  # a number in a tuple
KEPT_ARRAY_LENGTH = 1024  # per-layer hyperparameters are kept, vocabularies are not
MAX_DIMENSIONS = 4

Scalar = int | float | bool
Value = str | Scalar | tuple[Scalar, ...]


class ValueType(IntEnum):
    """Types of metadata values, as numbered by the format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


class RawTensor(Struct, frozen=True):
    """One line of the tensor table as it stands in the file."""

    name: str
    shape: tuple[int, ...]  # in GGUF's order: the dimension of rows first
    type_id: int
    offset_bytes: int  # from the start of the tensor data


class Header(Struct, frozen=True):
    """All that stands before the tensor data; metadata without its long arrays."""

    version: int
    metadata: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[RawTensor, ...]
    end_bytes: int  # where the header ends, before alignment


def read_header(stream: BinaryIO, size_bytes: int, where: str) -> Header:
    """Reads the header from a stream that stands at its start.

    Raises:
        IntegrityError: not GGUF, another version, or a count or length that is absurd or leads beyond the file.
    """
    return _Reader(stream, size_bytes, where).header()


class _Reader:
    def __init__(self, stream: BinaryIO, size_bytes: int, where: str) -> None:
        self.stream = stream
        self.limit = min(size_bytes, MAX_HEADER_BYTES)
        self.at = 0
        self.kept_bytes = 0
        self.strings_walked = 0
        self.where = where

    def fail(self, what: str) -> IntegrityError:
        return IntegrityError(f"{what} (header, byte {self.at})", where=self.where, cure="fetch or generate it anew")

    def header(self) -> Header:
        self.magic()
        (version,) = self.unpack("I")
        if version not in VERSIONS:
            swapped = " (a big-endian file)" if int.from_bytes(struct.pack(">I", version), "little") in VERSIONS else ""
            raise self.fail(f"GGUF version {version}{swapped}, versions 2 and 3 are read")
        tensors = self.count("tensor", MAX_TENSORS)
        pairs = self.count("metadata", MAX_PAIRS)
        metadata, lengths = self.pairs(pairs)
        table = tuple(self.tensor() for _ in range(tensors))
        return Header(version=version, metadata=metadata, array_lengths=lengths, tensors=table, end_bytes=self.at)

    def magic(self) -> None:
        found = self.take(len(MAGIC))
        if found != MAGIC:
            raise self.fail(f"not a GGUF file, it starts with {found!r}")

    def pairs(self, count: int) -> tuple[dict[str, Value], dict[str, int]]:
        metadata: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key = self.text(MAX_KEY_BYTES)
            if key in metadata or key in lengths:
                raise self.fail(f"metadata key {key!r} stands twice")
            kind = self.value_type(key)
            if kind is not ValueType.ARRAY:
                metadata[key] = self.value(kind)
                continue
            items, lengths[key] = self.array(key)
            if items is not None:
                metadata[key] = items
        return metadata, lengths

    def value(self, kind: ValueType) -> str | Scalar:
        if kind is ValueType.STRING:
            return self.text(MAX_KEPT_BYTES)
        scalar: Scalar = self.unpack(FORMATS[kind])[0]
        return scalar

    def array(self, key: str) -> tuple[tuple[Scalar, ...] | None, int]:
        """Elements of a short array of numbers, and the length of any array."""
        kind = self.value_type(key)
        (length,) = self.unpack("Q")
        if kind is ValueType.ARRAY:
            raise self.fail(f"metadata {key!r} is an array of arrays")
        if kind is ValueType.STRING:
            self.skip_strings(key, length)
            return None, length
        width = struct.calcsize(f"<{FORMATS[kind]}")
        if length * width > self.limit - self.at:
            raise self.fail(f"metadata {key!r} claims {length} elements, more than the header can hold")
        if length > KEPT_ARRAY_LENGTH:
            self.skip(length * width)
            return None, length
        self.keep(length * KEPT_ELEMENT_BYTES)
        return self.unpack(f"{length}{FORMATS[kind]}"), length

    def skip_strings(self, key: str, length: int) -> None:
        self.strings_walked += length
        if self.strings_walked > MAX_ARRAY_STRINGS or length * 8 > self.limit - self.at:
            raise self.fail(f"metadata {key!r} claims {length} strings, more than any vocabulary has")
        for _ in range(length):
            self.skip(self.unpack("Q")[0])

    def tensor(self) -> RawTensor:
        name = self.text(MAX_NAME_BYTES)
        (dimensions,) = self.unpack("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.fail(f"tensor {name!r} has {dimensions} dimensions")
        shape = self.unpack(f"{dimensions}Q")
        type_id, offset = self.unpack("IQ")
        return RawTensor(name=name, shape=shape, type_id=type_id, offset_bytes=offset)

    def count(self, of_what: str, most: int) -> int:
        (number,) = self.unpack("Q")
        if number > most:
            raise self.fail(f"{of_what} count {number}, at most {most} are read")
        return int(number)

    def value_type(self, key: str) -> ValueType:
        (number,) = self.unpack("I")
        try:
            return ValueType(number)
        except ValueError:
            raise self.fail(f"metadata {key!r} has the unknown type {number}") from None

    def text(self, most: int) -> str:
        (length,) = self.unpack("Q")
        if length > most:
            raise self.fail(f"a text of {length} bytes, at most {most} belong here")
        self.keep(length)
        return self.take(length).decode("utf-8", errors="replace")

    def keep(self, count: int) -> None:
        self.kept_bytes += count
        if self.kept_bytes > MAX_KEPT_BYTES:
            raise self.fail(f"names and texts take more than {MAX_KEPT_BYTES} bytes")

    def unpack(self, fields: str) -> tuple[int, ...]:
        return struct.unpack(f"<{fields}", self.take(struct.calcsize(f"<{fields}")))

    def take(self, count: int) -> bytes:
        self.reserve(count)
        found = self.stream.read(count)
        if len(found) != count:
            raise self.fail("the file ends inside the header")
        self.at += count
        return found

    def skip(self, count: int) -> None:
        self.reserve(count)
        self.stream.seek(count, 1)
        self.at += count

    def reserve(self, count: int) -> None:
        if count > self.limit - self.at:
            raise self.fail(f"the header goes on for {count} bytes, {self.limit - self.at} are left")
