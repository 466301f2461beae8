"""The compiled CPU kernel as ctypes sees it: found, checked and loaded once."""

from __future__ import annotations

import ctypes
import logging
import threading
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hushlm.entropy.kernels.build import LIBRARY, VARIANTS, fingerprint

__all__ = ["Problem", "StridedTensor", "available", "call", "load", "problem", "strided"]

_LOG = logging.getLogger("hushlm")


class StridedTensor(Structure):
    """`tensor` of native/attention.c: float32 of shape (batch, head, token, width), the last dimension contiguous."""

    _fields_ = (("at", c_void_p), ("step", c_int64 * 3))


class Problem(Structure):
    """`problem` of native/attention.c, field by field."""

    _fields_ = (
        *((name, c_int64) for name in ("batch", "heads", "queries", "keys", "width", "order", "power", "causal", "threads")),
        *((name, StridedTensor) for name in ("q", "k", "v", "output", "d_output", "d_q", "d_k", "d_v")),
        ("scale", c_void_p),
        ("scale_step", c_int64 * 2),
        *((name, c_void_p) for name in ("entropy", "maximum", "total", "first", "ties", "d_entropy", "d_scale", "scratch")),
        ("scratch_floats", c_int64),
    )


def strided(x: Tensor) -> StridedTensor:
    """A tensor's place and strides; it must stay alive as long as they are used."""
    assert x.dtype is torch.float32
    assert x.stride(3) == 1 or x.shape[3] == 1
    return StridedTensor(x.data_ptr(), (c_int64 * 3)(*x.stride()[:3]))


@cache
def load(variant: str | None = None) -> tuple[Any, Any] | None:
    """The functions (scratch size, run) of a variant, the processor's widest by default.

    None, with one line of notice the first time, where the library cannot be used; also for a variant the processor cannot run.
    """
    library, reason = _open()
    if library is None:
        _LOG.warning("hushlm: attention runs in plain torch, slower but with the same results: %s.", reason)
        return None
    runnable = list(VARIANTS)[: library.hush_level() + 1]
    if variant is not None and variant not in runnable:
        return None
    name = variant or runnable[-1]
    scratch, run = getattr(library, f"hush_scratch_{name}"), getattr(library, f"hush_attention_{name}")
    scratch.argtypes, scratch.restype = (POINTER(Problem), c_int), c_int64
    run.argtypes, run.restype = (POINTER(Problem), c_int), None
    return scratch, run


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there is a library; a graph being compiled takes the answer as it is now."""
    return load() is not None


def problem() -> str | None:
    """Why the compiled kernel cannot be used and attention runs in plain torch, without a full stop; None if it can be used."""
    return _open()[1] or None


def _open() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    if not LIBRARY.is_file():
        return (
            None,
            "the compiled kernel is missing, for the package was installed without a C compiler, so install one and then the package again",
        )
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.hush_fingerprint.restype = c_char_p
        built_from = library.hush_fingerprint().decode()
    except (OSError, AttributeError) as error:
        return None, f"{LIBRARY.name} cannot be loaded ({error}), so install the package again"
    if built_from != fingerprint():
        return None, f"{LIBRARY.name} was built from other sources, so install the package again"
    return library, ""


def call(problem: Problem, *, backward: bool) -> None:
    """Run on as many threads as torch would, with scratch memory of torch's."""
    functions = load()
    assert functions is not None
    scratch_of, run = functions
    problem.threads = min(torch.get_num_threads(), problem.batch * problem.heads)
    problem.scratch_floats = (scratch_of(byref(problem), backward) + 15) // 16 * 16
    problem.scratch = _scratch(problem.scratch_floats * problem.threads)
    run(byref(problem), backward)


_kept = threading.local()


def _scratch(floats: int) -> int:
    """Address of memory this Python thread uses again and again: fresh pages would cost a tenth of a short call."""
    if getattr(_kept, "scratch", None) is None or _kept.scratch.numel() < floats:
        _kept.scratch = torch.empty(floats, dtype=torch.float32)
    return _kept.scratch.data_ptr()
