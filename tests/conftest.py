"""Shared fixtures: tiny settings, a tiny corpus, and one thread, so that sums round the same everywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    # Where the tests run in the background SIGINT is ignored, and so it would be in every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Private sessions keep their compiled programs in a folder of this run of the tests, and not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHLM_PROGRAMS", str(tmp_path_factory.mktemp("programs")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short text files of a language with structure to learn: counted sentences over few words."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    for number in range(40):
        lines = [f"{i} {' '.join(generator.choice(words, size=6))}." for i in range(40)]
        (folder / f"part{number:02d}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def tiny(tmp_path: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """tiny(architecture, training={...}, shape={...}, entropy={...}) -> a run of seconds, with its output below `tmp_path`."""
    cache = tmp_path_factory.getbasetemp() / "token-stores"

    def make(architecture: str = "SM+ScFuFFN", **sections: dict[str, Any]) -> RunConfig:
        return RunConfig.from_dict(
            {
                "architecture": architecture,
                "shape": {"layers": 2, "heads": 2, "width": 16, "context": 32} | sections.get("shape", {}),
                "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(cache)} | sections.get("data", {}),
                "training": {
                    "steps": 12,
                    "batch": 4,
                    "warmup_steps": 4,
                    "evaluate_every": 6,
                    "evaluation_batches": 4,
                    "watch_every": 3,
                    "threads": 1,
                }
                | sections.get("training", {}),
                "entropy": sections.get("entropy", {}),
                "output": str(tmp_path / "checkpoint"),
            }
        )

    return make


@pytest.fixture
def tiny_store(tiny: Callable[..., RunConfig]) -> TokenStore:
    """The bytes of `text_folder`."""
    return open_token_store(tiny().data)
