"""The GGUF checker: what a sound file holds, and that no other file gets by, crashes it, hangs it or fills memory."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf_files import F32, Q4_K, Q8_0, MetadataValue, gguf, moe_file, pair, text

from harness.errors import ExitCode, IntegrityError
from harness.models.check import GgufFile, WeightBytes, active_parameters, check, weight_bytes

TABLE_BYTES = 5 * 60  # the tensor table of `moe_file`, roughly
DATA_BYTES = 64 * 144 + 1024 + 8192 + 32 * 8 * 144 + 64 * 8 * 34
LLAMA: dict[str, MetadataValue] = {"general.architecture": "llama", "general.file_type": 15}
ONE_TENSOR = {"token_embd.weight": ((256, 4), Q4_K)}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.unlink(missing_ok=True)  # some file systems flush a file that is truncated and written again
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(IntegrityError) as caught:
        check(written(folder, content))
    assert caught.value.exit_code is ExitCode.INTEGRITY
    assert "model.gguf" in str(caught.value)
    assert caught.value.cure
    return caught.value.what


def preamble(tensors: int, pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


def test_a_sound_file_tells_what_it_holds(tmp_path: Path) -> None:
    file = check(written(tmp_path, moe_file()), architecture="olmoe", file_type="Q4_K_M")
    assert (file.version, file.architecture, file.file_type) == (3, "olmoe", "Q4_K_M")
    assert file.metadata["olmoe.per_layer"] == (1.0, 2.0)
    assert file.array_lengths == {"tokenizer.ggml.tokens": 64, "tokenizer.ggml.scores": 1025, "olmoe.per_layer": 2}
    assert "tokenizer.ggml.scores" not in file.metadata
    assert [(tensor.type_name, tensor.size_bytes) for tensor in file.tensors] == [
        ("Q4_K", 64 * 144),
        ("F32", 1024),
        ("F32", 8192),
        ("Q4_K", 32 * 8 * 144),
        ("Q8_0", 64 * 8 * 34),
    ]
    assert file.tensors[-1].offset_bytes + file.tensors[-1].size_bytes == file.size_bytes
    assert file.parameters == 256 * (64 + 1 + 8 + 32 * 8 + 64)


def test_active_bytes_of_an_untied_moe_model(tmp_path: Path) -> None:
    file = check(written(tmp_path, moe_file()))
    others = 1024 + 8192 + 64 * 8 * 34
    assert weight_bytes(file) == WeightBytes(
        total_bytes=64 * 144 + others + 32 * 8 * 144,
        active_bytes=144 + others + 32 * 2 * 144,  # one row of the embedding, two experts of eight
    )
    assert active_parameters(file) == 256 * (64 + 1 + 8 + 32 * 2 + 64)


def test_a_tied_embedding_is_read_whole(tmp_path: Path) -> None:
    file = check(written(tmp_path, gguf(LLAMA, ONE_TENSOR)))
    assert weight_bytes(file) == WeightBytes(total_bytes=4 * 144, active_bytes=4 * 144)
    assert active_parameters(file) == file.parameters


def test_architecture_and_file_type_are_those_of_the_registry(tmp_path: Path) -> None:
    path = written(tmp_path, moe_file())
    with pytest.raises(IntegrityError, match="architecture is olmoe, expected llama"):
        check(path, architecture="llama")
    with pytest.raises(IntegrityError, match="file type is Q4_K_M, expected Q8_0"):
        check(path, file_type="Q8_0")
    with pytest.raises(IntegrityError, match="file type is not told, expected Q8_0"):
        check(written(tmp_path, gguf({"general.architecture": "llama"}, ONE_TENSOR)), file_type="Q8_0")


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    content = moe_file()
    lengths = random.Random(1).sample(range(len(content)), 200)
    assert all(refusal(tmp_path, content[:length]) for length in lengths)
    assert "truncated" in refusal(tmp_path, content[:-1])


def test_padding_beyond_the_alignment_is_seen(tmp_path: Path) -> None:
    content = gguf(LLAMA, {"a": ((5,), F32)})  # 20 bytes of data and 12 of padding
    assert check(written(tmp_path, content)).size_bytes == len(content)
    assert check(written(tmp_path, content[:-12])).size_bytes == len(content) - 12
    assert "bytes follow the last tensor" in refusal(tmp_path, content + b"\0")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file ends inside the header|goes on for"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "GGUF version 1, versions"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "a big-endian file"),
        (preamble(1 << 60, 0), "tensor count 1152921504606846976"),
        (preamble(0, 1 << 63), "metadata count"),
        (preamble(0, 1) + struct.pack("<Q", 1 << 62), "a text of"),
        (preamble(0, 1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
        (preamble(0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64), "array of arrays"),
        (preamble(0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 1 << 62) + bytes(64), "claims 4611686018427387904"),
        (preamble(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 40) + bytes(64), "more than any vocabulary"),
        (preamble(0, 2) + pair("k", 1) * 2, "stands twice"),
        (preamble(1, 0) + text("n" * 64) + bytes(64), "a text of 64 bytes, at most 63"),
        (preamble(1, 0) + text("n") + struct.pack("<I", 5) + bytes(64), "5 dimensions"),
        (gguf({"general.file_type": 15}, ONE_TENSOR), "names no architecture"),
        (gguf(LLAMA, {}), "holds no tensors"),
        (gguf({**LLAMA, "general.alignment": 48}, ONE_TENSOR), "no power of two"),
        (gguf(LLAMA, {"a": ((100,), F32), "b": ((0,), F32)}), "has the shape"),
    ],
)
def test_faulty_headers_are_told_apart(tmp_path: Path, content: bytes, fault: str) -> None:
    whats = refusal(tmp_path, content)
    assert any(part in whats for part in fault.split("|")), whats


def test_faulty_tensor_tables_are_told_apart(tmp_path: Path) -> None:
    good = gguf(LLAMA, {"a": ((64,), F32), "b": ((256,), Q4_K)})
    assert "unknown type 4" in refusal(tmp_path, good.replace(entry("b", 256, Q4_K, 256), entry("b", 256, 4, 256)))
    assert "starts at 128" in refusal(tmp_path, good.replace(entry("b", 256, Q4_K, 256), entry("b", 256, Q4_K, 128)))
    assert "has the shape" in refusal(tmp_path, good.replace(entry("b", 256, Q4_K, 256), entry("b", 255, Q4_K, 256)))
    assert "has the shape" in refusal(tmp_path, good.replace(entry("b", 256, Q4_K, 256), entry("b", 1 << 63, 0, 256)))
    assert "stands twice" in refusal(tmp_path, good.replace(entry("b", 256, Q4_K, 256), entry("a", 256, Q4_K, 256)))


def entry(name: str, length: int, type_id: int, offset: int) -> bytes:
    return text(name) + struct.pack("<IQIQ", 1, length, type_id, offset)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, fault in (
        ("fifo", "is a FIFO"),
        ("loop", "symbolic links"),
        ("absent", "No such file"),
        (".", "is a directory"),
        ("/dev/zero", "is a device"),
    ):
        with pytest.raises(IntegrityError, match=fault):
            check(tmp_path / name)


def mutated(content: bytes, dice: random.Random) -> bytes:
    """One to four faults in the header: flipped bits, extreme numbers, lost, doubled or foreign bytes."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        header_bytes = len(changed) - DATA_BYTES
        at = dice.choice([dice.randrange(24), dice.randrange(header_bytes), header_bytes - dice.randrange(TABLE_BYTES)])
        match dice.randrange(5):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                extreme = dice.choice(
                    [0, 1, 0x7F, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
                )
                changed[at : at + 8] = struct.pack("<Q", extreme)
            case 2:
                del changed[at : at + dice.randint(1, 16)]
            case 3:
                changed[at:at] = changed[at : at + dice.randint(1, 16)]
            case _:
                changed[at : at + 4] = dice.randbytes(4)
    return bytes(changed)


def test_two_thousand_mutated_headers(tmp_path: Path) -> None:
    content = moe_file()
    dice = random.Random(20260628)
    outcomes = {"passed": 0, "refused": 0}
    for _ in range(2000):
        try:
            file = check(written(tmp_path, mutated(content, dice)))
        except IntegrityError:
            outcomes["refused"] += 1
        else:
            assert isinstance(file, GgufFile)
            outcomes["passed"] += 1
            assert weight_bytes(file).total_bytes <= file.size_bytes
    assert outcomes["refused"] > 1500
    assert outcomes["passed"] > 50  # a flipped bit in a text is for the hash to find


def test_memory_stays_small_whatever_the_file_claims(tmp_path: Path) -> None:
    hostile = {
        "key": preamble(0, 4096) + text(b"\xff" * (1 << 22)) + bytes(64),
        "value": preamble(0, 2) + text("k") + struct.pack("<I", 8) + text(b"\xff" * ((1 << 22) - 9)) + bytes(64),
        "texts": preamble(0, 4096) + b"".join(pair(f"k{n}", "x" * 60_000) for n in range(400)),
        "arrays": preamble(0, 4096) + b"".join(pair(f"k{n}", [1.0] * 1024) for n in range(1000)),
        "tensors": preamble(1 << 15, 0) + b"".join(entry(f"t{n}", 1, F32, 32 * n) for n in range(20_000)),
        "vocabulary": preamble(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 100_000) + text("word") * 100_000,
    }
    for name, content in hostile.items():
        path = written(tmp_path, content)
        os.truncate(path, 1 << 33)  # a hole: the file seems large enough for anything
        tracemalloc.start()
        with pytest.raises(IntegrityError):
            check(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 48 << 20, name


def test_no_loop_over_a_long_run_of_zeros(tmp_path: Path) -> None:
    path = written(tmp_path, preamble(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 22))
    os.truncate(path, 1 << 33)
    with pytest.raises(IntegrityError, match="more than any vocabulary"):
        check(path)


def test_q8_blocks_count_34_bytes(tmp_path: Path) -> None:
    file = check(written(tmp_path, gguf(LLAMA, {"a": ((64, 2), Q8_0)}, version=2)))
    assert (file.version, file.tensors[0].size_bytes) == (2, 136)
