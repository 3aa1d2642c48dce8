"""Written files: sound, hashed right, complete or absent; clones keep tensors and types and drop the vocabulary."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from gguf_files import Q4_K, gguf, moe_file

from harness.errors import EnvironmentLacking, UsageError
from harness.models.check import check
from harness.models.clone import clone
from harness.models.contents import Filling, Placed
from harness.models.proxy_file import write_layout
from harness.models.proxy_layout import Layout, write_sparse
from harness.models.templates import Metadata

EMBEDDING = Placed(name="token_embd.weight", dims=(256, 100), type_name="Q6_K", size_bytes=100 * 210)
NORM = Placed(name="output_norm.weight", dims=(250,), type_name="F32", size_bytes=1000)
KEYS: Metadata = {
    "general.file_type": 15,
    "llama.block_count": 1,
    "llama.rope.freq_base": 1e4,
    "llama.heads": (4, 0, 4),
}


def layout(*tensors: Placed) -> Layout:
    return Layout(architecture="llama", metadata=dict(KEYS), tensors=tensors)


def test_a_written_file_is_sound_and_its_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.gguf"
    seen: list[tuple[int, int]] = []
    stamp = write_layout(layout(EMBEDDING, NORM), Filling(seed=1), path, lambda *done: seen.append(done))
    assert stamp.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stamp.size_bytes == path.stat().st_size == seen[-1][0] == seen[-1][1]
    file = check(path, architecture="llama", file_type="Q4_K_M")
    assert [(tensor.name, tensor.shape, tensor.type_name) for tensor in file.tensors] == [
        ("token_embd.weight", (256, 100), "Q6_K"),
        ("output_norm.weight", (250,), "F32"),
    ]
    assert file.metadata["llama.heads"] == (4, 0, 4)
    assert file.metadata["llama.block_count"] == 1


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    hashes = [
        write_layout(layout(EMBEDDING, NORM), Filling(seed=seed), tmp_path / f"{index}.gguf", None).sha256
        for index, seed in enumerate((5, 5, 6))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_disk_too_small_is_told_before_a_byte_is_written(tmp_path: Path) -> None:
    vast = Placed(name="a.weight", dims=(256, 1 << 50), type_name="Q6_K", size_bytes=210 << 50)
    with pytest.raises(EnvironmentLacking, match="are free"):
        write_layout(layout(vast), Filling(seed=1), tmp_path / "a.gguf", None)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_the_older_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"older")
    exotic = Placed(name="b.weight", dims=(256, 4), type_name="IQ2_XS", size_bytes=4 * 74)
    with pytest.raises(UsageError, match="IQ2_XS"):
        write_layout(layout(EMBEDDING, exotic), Filling(seed=1), path, None)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    place = tmp_path / "file" / "a.gguf"
    with pytest.raises(EnvironmentLacking, match="cannot write") as caught:
        write_layout(layout(NORM), Filling(seed=1), place, None)
    assert str(place) in str(caught.value)


def test_a_sparse_file_has_the_right_length_and_next_to_no_blocks(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    write_sparse(layout(Placed(name="a.weight", dims=(256, 1 << 22), type_name="F16", size_bytes=1 << 31)), path)
    status = path.stat()
    assert status.st_size > 1 << 31
    assert status.st_blocks * 512 < 1 << 20
    assert check(path).parameters == 1 << 30


def test_a_clone_has_the_tensors_and_hyperparameters_and_no_vocabulary(tmp_path: Path) -> None:
    source = tmp_path / "real.gguf"
    source.write_bytes(moe_file())
    made = clone(source, out=tmp_path / "clone.gguf")
    original, copy = check(source), check(made.path)
    table = [(tensor.name, tensor.shape, tensor.type_name, tensor.size_bytes) for tensor in original.tensors]
    assert table == [(tensor.name, tensor.shape, tensor.type_name, tensor.size_bytes) for tensor in copy.tensors]
    assert copy.metadata["tokenizer.ggml.model"] == "none"
    assert copy.metadata["olmoe.vocab_size"] == 64
    assert copy.metadata["olmoe.rope.freq_base"] == original.metadata["olmoe.rope.freq_base"]
    assert not any(key.startswith("tokenizer.ggml.tokens") for key in copy.array_lengths)
    assert (made.variant, made.expert_used_count) == ("clone", 2)
    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()


def test_a_clone_never_overwrites_its_source(tmp_path: Path) -> None:
    source = tmp_path / "real.gguf"
    source.write_bytes(moe_file())
    with pytest.raises(UsageError, match="overwrite its source"):
        clone(source, out=source)
    assert source.read_bytes() == moe_file()


@pytest.mark.parametrize("scale", ["large", 0.0, -1.0, float("nan")])
def test_a_clone_of_a_file_with_an_absurd_scale_is_refused(tmp_path: Path, scale: str | float) -> None:
    source = tmp_path / "real.gguf"
    tensors = {"token_embd.weight": ((256, 64), Q4_K)}
    source.write_bytes(gguf({"general.architecture": "granite", "granite.embedding_scale": scale}, tensors))
    with pytest.raises(UsageError, match="no positive number"):
        clone(source, out=tmp_path / "clone.gguf")
    assert not (tmp_path / "clone.gguf").exists()
