"""Checkpoints: what is saved comes back; what is torn, altered or foreign is refused with one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.files import write_manifest
from hushlm.training import TrainingResult, load_checkpoint, load_training_state, train

Tiny = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> TrainingResult:
    """A short run of the paper's final system."""
    base = tmp_path_factory.mktemp("trained")
    config = RunConfig.from_dict(
        {
            "architecture": "EReg(SM(t)+ScFuFFN)",
            "shape": {"layers": 2, "heads": 2, "width": 16, "context": 32},
            "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(base / "data")},
            "training": {"steps": 6, "batch": 4, "watch_every": 2, "evaluation_batches": 2, "threads": 1},
            "output": str(base / "checkpoint"),
        }
    )
    return train(config, open_token_store(config.data))


@pytest.fixture
def folder(trained: TrainingResult, tmp_path: Path) -> Path:
    """A copy to damage; a checkpoint may be moved."""
    shutil.copytree(trained.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_round_trip(trained: TrainingResult, folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.to_dict() | {"output": None} == trained.config.to_dict() | {"output": None}
    assert checkpoint.config.output == folder
    assert checkpoint.step == 6
    assert checkpoint.metrics == trained.metrics
    assert not checkpoint.model.training
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], tensor)
    assert trained.regulariser is not None
    assert checkpoint.regulariser is not None
    assert torch.equal(checkpoint.regulariser.threshold_LH, trained.regulariser.threshold_LH)
    assert (checkpoint.regulariser.threshold_LH != 0.5).all()  # learned, not the start
    text = "déjà vu\n"
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode(text).ids) == text
    tokens = torch.randint(0, 256, (2, 32))
    assert torch.equal(checkpoint.model(tokens).logits_BTV, trained.model(tokens).logits_BTV)


def test_files_and_provenance(trained: TrainingResult, folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "manifest.json",
        "state/optimiser.safetensors",
        "state/regulariser.safetensors",
        "state/progress.json",
    }
    about = json.loads((folder / "config.json").read_text())
    assert about["architecture"] == "EReg(SM(t)+ScFuFFN)"
    assert about["shape"]["vocabulary"] == 256
    assert "output" not in about
    provenance = about["provenance"]
    assert provenance["seed"] == 0
    assert len(provenance["corpus_fingerprint"]) == 64
    assert provenance["python"] == ".".join(map(str, sys.version_info[:3]))
    assert provenance["versions"]["torch"] == version("torch")
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert set(weights) == set(trained.model.state_dict())


def test_without_the_regulariser_there_is_none(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny("SM+R")
    train(config, tiny_store)
    assert load_checkpoint(config.output).regulariser is None
    assert not (config.output / "state/regulariser.safetensors").exists()


FILES = ("config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "state/optimiser.safetensors", "state/progress.json")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*FILES, "state/regulariser.safetensors"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda path: os.truncate(path, path.stat().st_size - 1), id="truncated"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(flip, id="flipped bit"),
        pytest.param(lambda path: path.unlink(), id="removed"),
    ],
)
def test_damage_is_refused(folder: Path, name: str, fault: Callable[[Path], object]) -> None:
    fault(folder / name)
    with pytest.raises(ValueError, match=f"{name}.*(damaged|missing)") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_added_file_is_refused(folder: Path) -> None:
    (folder / "state/optimizer.pt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"state/optimizer\.pt"):
        load_checkpoint(folder)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        load_checkpoint(tmp_path / "foreign")


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


RESIGNED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other shape": (lambda f: edit(f, lambda v: v["shape"].update(width=32)), "does not hold the weights"),
    "other architecture": (lambda f: edit(f, lambda v: v.update(architecture="SM+LN+G")), "does not hold the weights"),
    "unknown architecture": (lambda f: edit(f, lambda v: v.update(architecture="GPT-5")), "Unknown architecture"),
    "nonsense setting": (lambda f: edit(f, lambda v: v["training"].update(steps="many")), "training.steps"),
    "newer format": (lambda f: edit(f, lambda v: v.update(format=2)), "format 2"),
    "no provenance": (lambda f: edit(f, lambda v: v.pop("provenance")), "does not describe"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "does not describe"),
    "weights are text": (lambda f: (f / "model.safetensors").write_text("hello"), "does not hold the weights"),
    "no model": (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors"),
    "no thresholds": (lambda f: (f / "state/regulariser.safetensors").unlink(), r"no state/regulariser\.safetensors"),
}


@pytest.mark.parametrize("fault", RESIGNED)
def test_a_valid_manifest_over_wrong_content_is_refused_too(folder: Path, fault: str) -> None:
    change, words = RESIGNED[fault]
    change(folder)
    write_manifest(folder)
    with pytest.raises(ValueError, match=words) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["state/optimiser.safetensors", "state/progress.json"])
def test_a_checkpoint_without_training_state_loads_but_does_not_resume(folder: Path, name: str) -> None:
    (folder / name).unlink()
    write_manifest(folder)
    checkpoint = load_checkpoint(folder)
    with pytest.raises(ValueError, match="no training state"):
        load_training_state(checkpoint)


def test_loading_runs_no_code_from_the_folder(folder: Path) -> None:
    """No pickle anywhere: no file is one, and none holds what an unpickler would need."""
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in (".json", ".jsonl", ".safetensors")


SAVE_LOOP = """
import sys
from pathlib import Path
import torch
from hushlm.training import build_model, load_checkpoint, load_training_state, save_checkpoint
torch.set_num_threads(1)
source, target = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint = load_checkpoint(source)
state = load_training_state(checkpoint)
print("ready", flush=True)
step = 7
while True:
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.fill_(step)
    save_checkpoint(target, config=checkpoint.config, model=checkpoint.model, tokenizer=checkpoint.tokenizer,
        regulariser=checkpoint.regulariser, metrics=[], step=step, corpus="c", corpus_fingerprint="f", state=state)
    print("saved", flush=True)
    step += 1
"""


@pytest.mark.slow
def test_killed_while_saving_the_old_or_the_new_one_is_whole(trained: TrainingResult, folder: Path) -> None:
    newest = 6
    for trial in range(4):
        with subprocess.Popen([sys.executable, "-c", SAVE_LOOP, str(trained.folder), str(folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert process.stdout.readline() == b"saved\n"
            time.sleep(0.05 + 0.031 * trial)
            process.kill()
        checkpoint = load_checkpoint(folder)
        newest = max(newest, checkpoint.step)
        if checkpoint.step > 6:
            assert {float(parameter.detach().mean()) for parameter in checkpoint.model.parameters()} == {float(checkpoint.step)}
    assert newest > 6
