"""How much of the machine this process may use."""

from __future__ import annotations

import os

__all__ = ["processors"]


def processors() -> int:
    """The number of processors that this process may run on, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
