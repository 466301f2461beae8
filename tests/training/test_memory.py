"""Freed memory is used again instead of being mapped anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from hushlm.training.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of another C library")
def test_large_tensors_find_their_pages_again() -> None:
    faults = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        assert kept == ("True" if how == "keep" else "None")
        faults[how] = int(count)
    assert faults["keep"] * 10 < faults["default"]
