"""Another process that works on stores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Work = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def work() -> Iterator[Work]:
    """Does calls on the store below a folder in a process of its own; see `faulty_process.py`."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.private.bundles.faulty_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(folder: Path, *calls: Any, **job: Any) -> list[dict[str, Any]]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps({"folder": str(folder), "calls": calls, **job}), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()
