"""Symbols of ggml and llama.cpp that the Python binding does not declare: thread pools, node names, logs, versions."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.llamacpp.binding import library_folder, low

MAX_THREADS = 512  # GGML_MAX_N_THREADS of ggml.h


class ThreadpoolParams(ctypes.Structure):
    """`struct ggml_threadpool_params` of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@dataclass(frozen=True)
class Ggml:
    """The shared libraries beside the binding, with the argument types of what is used here."""

    base: Any
    cpu: Any
    llama: Any


def _library(name: str) -> Any:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return ctypes.CDLL(str(library_folder() / f"lib{name}.{suffix}"))


def load() -> Ggml:
    """Bind the symbols; the libraries are already in the process, so this is cheap.

    All three are reached through libllama, whose handle also finds what its dependencies export. To open ggml's files
    by name would be a trap: a wheel holds copies (libggml-cpu.so beside libggml-cpu.so.0) where a build has links, so
    the loader would map a second, uninitialised ggml whose threads compute nonsense from empty tables.
    """
    base = cpu = llama = _library("llama")
    _declare(base.ggml_threadpool_params_default, [ctypes.c_int], ThreadpoolParams)
    _declare(base.ggml_get_name, [ctypes.c_void_p], ctypes.c_char_p)
    _declare(base.ggml_op_desc, [ctypes.c_void_p], ctypes.c_char_p)
    _declare(base.ggml_get_data, [ctypes.c_void_p], ctypes.c_void_p)
    _declare(base.ggml_nbytes, [ctypes.c_void_p], ctypes.c_size_t)
    _declare(base.ggml_commit, [], ctypes.c_char_p)
    _declare(base.ggml_version, [], ctypes.c_char_p)
    _declare(base.ggml_backend_tensor_get, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None)
    _declare(cpu.ggml_threadpool_new, [ctypes.POINTER(ThreadpoolParams)], ctypes.c_void_p)
    for name in ("ggml_threadpool_free", "ggml_threadpool_pause", "ggml_threadpool_resume"):
        _declare(getattr(cpu, name), [ctypes.c_void_p], None)
    _declare(llama.llama_attach_threadpool, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p], None)
    _declare(llama.llama_detach_threadpool, [ctypes.c_void_p], None)
    return Ggml(base, cpu, llama)


def _declare(function: Any, arguments: list[Any], result: Any) -> None:
    function.argtypes, function.restype = arguments, result


class Threadpool:
    """The threads of one context: pausable, so that a waiting worker leaves the cores to the one at work."""

    def __init__(self, ggml: Ggml, threads: int) -> None:
        self._ggml = ggml
        params = ggml.base.ggml_threadpool_params_default(threads)
        self._handle: int | None = ggml.cpu.ggml_threadpool_new(ctypes.byref(params))

    def attach(self, context: Any) -> None:
        """Serve both decoding and prefill of a context."""
        self._ggml.llama.llama_attach_threadpool(context, self._handle, self._handle)

    def pause(self) -> None:
        """Threads wait on a condition variable: no polling, no CPU time."""
        self._ggml.cpu.ggml_threadpool_pause(self._handle)

    def resume(self) -> None:
        """Threads poll for work again."""
        self._ggml.cpu.ggml_threadpool_resume(self._handle)

    def close(self) -> None:
        """End the threads; the context must be gone or detached."""
        if self._handle is not None:
            self._ggml.cpu.ggml_threadpool_free(self._handle)
            self._handle = None


@dataclass
class LogCapture:
    """Keeps llama.cpp's log lines and passes them on to stderr; keep it alive as long as the library logs."""

    lines: list[str] = field(default_factory=list)
    _callback: Any = None

    def install(self, echo: Callable[[str], None]) -> None:
        """Make this the sink of llama.cpp's log."""

        def sink(_level: int, text: bytes, _user: Any) -> None:
            line = text.decode("utf-8", "replace")
            self.lines.append(line)
            echo(line)

        self._callback = low.llama_log_callback(sink)
        low.llama_log_set(self._callback, ctypes.c_void_p(0))

    def text(self) -> str:
        """Everything logged so far."""
        return "".join(self.lines)
