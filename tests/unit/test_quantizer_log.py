"""What is read from the quantizer's log; the real log is read in the integration tests."""

from __future__ import annotations

import pytest

from harness.llamacpp.quantizer import file_type_number, read_log

LOG = (
    "llama_model_loader: loaded meta data\n"
    "[   1/  57] output_norm.weight                   - [  2048,      1,      1,      1], type =    f32, "
    "size =    0.008 MiB\n"
    "[   2/  57] blk.0.a_name_longer_than_the_column.weight - [  2048,  2048,  1,  1], type =    f16, "
    "size =   196.50 MiB ->    80.60 MiB (q6_K)\n"
    "[   3/  57] blk.0.attn_q.weight                  - [  2048,   2048,      1,      1], type =    f16, "
    "size =     8.00 MiB ->     2.25 MiB (q4_K)\n"
    "llama_model_quantize_impl: quant size  =  4016.57 MiB (4.87 BPW)\n"
)


def test_targets_where_they_are_told_and_the_type_it_has_elsewhere() -> None:
    assert read_log(LOG) == {
        "output_norm.weight": "f32",
        "blk.0.a_name_longer_than_the_column.weight": "q6_K",
        "blk.0.attn_q.weight": "q4_K",
    }


def test_a_log_without_plan_is_an_empty_plan() -> None:
    assert read_log("main: nothing\n") == {}


def test_file_types_by_the_names_of_the_binding() -> None:
    names = {"LLAMA_FTYPE_MOSTLY_Q4_K_M": 15, "LLAMA_FTYPE_ALL_F32": 0, "LLAMA_FTYPE_TEXT": "no number"}
    assert file_type_number("Q4_K_M", names) == 15
    assert file_type_number("F32", names) == 0
    with pytest.raises(ValueError, match="Q9_Z"):
        file_type_number("Q9_Z", names)
