"""Freed memory is kept for the next step instead of being given back and asked for again."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""The constants' values in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Tell glibc's malloc, for this process, to hold on to what is freed.

    By default every tensor above 32 MB is mapped anew, and the kernel clears its pages when they are first touched: about a tenth of a
    step of GPT-2 small (`benchmarks/step.py`). A training step asks for the same sizes again and again. The process stays as large as it
    once was.

    Returns: whether there is such a malloc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        # Another C library than glibc.
        return False
    # -1: never trim. No allocation of its own for large blocks: they come from the heap.
    return bool(mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_MMAP_MAX, 0))
