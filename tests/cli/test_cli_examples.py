"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hushlm.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_look_into_a_model(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "look_into_a_model.py"), "SM2+R", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "step 3: validation perplexity" in done.stdout
    assert done.stdout.count("nats") == 6


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_train(path: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The models' own widths, and Muon on them, take minutes a step; what is tried is that the file is read and its model trains.
    short = [
        "--shape.width",
        "96",
        "--training.steps",
        "1",
        "--training.evaluation_batches",
        "1",
        "--training.batch",
        "4",
        "--shape.context",
        "32",
        "--data.tokenizer",
        "bpe:300",
    ]
    places = ["--data.corpus", str(text_folder), "--data.cache", str(tmp_path), "--output", str(tmp_path / "run")]
    assert main(["train", "--config", str(path), *short, *places, "--progress", "none", "--json"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["architecture"] == yaml.safe_load(path.read_text())["architecture"]
