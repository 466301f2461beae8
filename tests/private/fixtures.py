"""A model trained for seconds, its export, and keys; made once a run of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.training import Checkpoint, load_checkpoint, train
from tests.private.faults_seen import FaultsSeen


@pytest.fixture(scope="session")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Checkpoint:
    """L=2, H=2, D=32, T=32, bytes; knows the words of `text_folder`."""
    folder = tmp_path_factory.mktemp("served")
    config = RunConfig.from_dict(
        {
            "architecture": "EReg(SM(t)+ScFuFFN)",
            "shape": {"layers": 2, "heads": 2, "width": 32, "context": 32},
            "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(folder / "store")},
            "training": {
                "steps": 300,
                "batch": 8,
                "warmup_steps": 10,
                "learning_rate": 1e-2,
                "evaluate_every": 300,
                "evaluation_batches": 2,
                "watch_every": 50,
                "threads": 1,
            },
            "output": str(folder / "checkpoint"),
        }
    )
    train(config, open_token_store(config.data))
    return load_checkpoint(folder / "checkpoint")


@pytest.fixture(scope="session")
def export_folder(served_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`server/` and `client/` of `served_checkpoint`."""
    pytest.importorskip("spu")
    from hushlm.private.program.export_model import export_model

    folder = tmp_path_factory.mktemp("export")
    export_model(served_checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authority, server and client for 127.0.0.1 and localhost."""
    pytest.importorskip("cryptography")
    from hushlm.private.keys.certificates import create_keys

    folder = tmp_path_factory.mktemp("keys") / "keys"
    create_keys(folder, ["127.0.0.1", "localhost"])
    return folder


@pytest.fixture(scope="session")
def faults_seen() -> Iterator[FaultsSeen]:
    """What tests of faults saw; written to results/faults.json if HUSH_WRITE_FAULTS is set."""
    seen = FaultsSeen()
    yield seen
    seen.write()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every process keeps its session folders."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path
