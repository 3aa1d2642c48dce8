"""llama.cpp's own quantizer, run dry: which type each tensor of a file would get.

Method: `llama_model_quantize` with `dry_run` reads the header of an F16 file only and logs a line a tensor; the mixture
of types is a rule of llama.cpp's that changes from version to version, so it is asked for and never copied.

`python -m harness.llamacpp.quantizer FILE TYPE` prints a JSON object: tensor name -> type (`q4_K`, `f32`, ...).
It is a process of its own: a crash of native code ends it and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Mapping

PLANNED = re.compile(
    r"\[ *\d+/ *\d+\] +(?P<name>\S+) +- \[[^\]]*\], type = +(?P<source>\w+), size = [^\n]*?(?:\((?P<target>\w+)\))?\n"
)


def plan(path: str, file_type: str) -> dict[str, str]:
    """Types that the quantizer would give to the tensors of the F16 file at `path`.

    Raises:
        ValueError: llama.cpp knows no such file type, or refused the file; its last words are the message.
    """
    from harness.llamacpp.binding import low  # noqa: PLC0415  (native code: only when asked)
    from harness.llamacpp.native import LogCapture  # noqa: PLC0415

    log = LogCapture()
    log.install(lambda _line: None)
    params = low.llama_model_quantize_default_params()
    params.ftype = file_type_number(file_type, vars(low))
    params.dry_run = True
    params.nthread = 1
    status = low.llama_model_quantize(path.encode(), b"", ctypes.byref(params))
    if status != 0:
        raise ValueError(f"llama.cpp's quantizer refused the header: {' '.join(log.text().split())[-400:]}")
    return read_log(log.text())


def file_type_number(file_type: str, names: Mapping[str, object]) -> int:
    """Number of a file type such as Q4_K_M, from the constants of the binding.

    Raises:
        ValueError: there is no such file type.
    """
    for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"):
        number = names.get(prefix + file_type)
        if isinstance(number, int):
            return number
    raise ValueError(f"llama.cpp knows no file type {file_type!r}")


def read_log(text: str) -> dict[str, str]:
    """The planned types from the quantizer's log; a line without a target names a tensor that stays as it is."""
    return {found["name"]: found["target"] or found["source"] for found in PLANNED.finditer(text)}


def main(arguments: list[str]) -> int:
    """Prints the plan; 2 with a sentence on stderr where there is none."""
    path, file_type = arguments
    try:
        types = plan(path, file_type)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this process speaks through its streams
        return 2
    print(json.dumps(types))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
