"""What a measurement was made on."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["processor_name"]

_LISTED = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's name as the operating system lists it; "unknown" where it does not."""
    lines = _LISTED.read_text(encoding="utf-8").splitlines() if _LISTED.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
