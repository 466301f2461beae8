from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_paper_presets_first_steps_are_the_golden_ones() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "paper_first_steps.py")]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if "another one than the file was made with" in result.stdout:
        pytest.skip("another patch version of Python has another standard library")
    assert result.returncode == 0, result.stdout + result.stderr
