"""Two processes train as one does: DDP and FSDP2, on gloo, started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.ranks import gradients
from tests.training.test_split import PAPER, assert_same, case, window

from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.training import load_checkpoint, train

Tiny = Callable[..., RunConfig]
CASES = [(architecture, reduction) for architecture in (PAPER, "SM+SNorm(QK)", "SM+LN+G") for reduction in ("algorithm", "listing")]
SPLITS: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp"},
    "ddp in micro-batches": {"parallel": "ddp", "micro_batch": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp in micro-batches": {"parallel": "fsdp", "micro_batch": 2, "activation_checkpointing": True},
}


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def trained(tiny: Tiny, **training: Any) -> RunConfig:
    """Nine sequences, which two ranks cannot share evenly."""
    return case(tiny, PAPER, "algorithm", **{"steps": 7, "batch": 9, "evaluation_batches": 3, **training})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """One start of two processes for all cases: starting takes longer than running."""
    folder = tmp_path_factory.mktemp("ranks")
    cache = tmp_path_factory.getbasetemp() / "token-stores"

    def at(name: str, config: RunConfig) -> dict[str, Any]:
        return config.to_dict() | {"output": str(folder / name)}

    def tiny(architecture: str, training: dict[str, Any], entropy: dict[str, Any]) -> RunConfig:
        values = {
            "architecture": architecture,
            "shape": {"layers": 2, "heads": 2, "width": 16, "context": 32},
            "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(cache)},
            "training": {"steps": 12, "warmup_steps": 4, "evaluate_every": 6, "watch_every": 3, "threads": 1, **training},
            "entropy": entropy,
        }
        return RunConfig.from_dict(values)

    cases = {
        f"{architecture} {reduction} {split}": at("-", case(tiny, architecture, reduction, **training))
        for architecture, reduction in CASES
        for split, training in SPLITS.items()
    }
    lesson = at("teacher", tiny("SM+LN+G", {"steps": 2}, {}))
    train(RunConfig.from_dict(lesson), open_token_store(RunConfig.from_dict(lesson).data))
    taught = {"teacher": lesson["output"], "teacher_weight": 0.4, "teacher_temperature": 2.0}
    cases |= {f"taught {split}": at("-", case(tiny, PAPER, "algorithm", **taught, **training)) for split, training in SPLITS.items()}
    cases["train muon"] = at("train-muon", trained(tiny, parallel="ddp", optimiser="muon", **taught))
    cases |= {f"train {kind}": at(f"train-{kind}", trained(tiny, parallel=kind)) for kind in ("ddp", "fsdp")}
    (folder / "cases.json").write_text(json.dumps(cases))
    torch.save(window(), folder / "window.pt")
    done = torchrun(str(Path(__file__).with_name("ranks.py")), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("architecture", "reduction"), CASES)
def test_two_ranks_give_the_gradient_of_one(ran: Path, tiny: Tiny, architecture: str, reduction: str, split: str) -> None:
    expected = gradients(case(tiny, architecture, reduction), window())
    assert_same(torch.load(ran / f"{architecture} {reduction} {split}.pt"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_two_ranks_learn_from_a_teacher_as_one_does(ran: Path, tiny: Tiny, split: str) -> None:
    taught = {"teacher": str(ran / "teacher"), "teacher_weight": 0.4, "teacher_temperature": 2.0}
    expected = gradients(case(tiny, PAPER, "algorithm", **taught), window())
    assert expected["teacher_loss"] > 0
    assert_same(torch.load(ran / f"taught {split}.pt"), expected)


@pytest.mark.slow
def test_two_ranks_with_muon_and_a_teacher_train_the_model_of_one(ran: Path, tiny: Tiny, tiny_store: TokenStore) -> None:
    """Muon's iteration rounds to bfloat16, so what rounds differently in the gradients' sums is carried on a little more."""
    taught = {"teacher": str(ran / "teacher"), "teacher_weight": 0.4, "teacher_temperature": 2.0}
    alone = train(trained(tiny, optimiser="muon", **taught), tiny_store)
    together = load_checkpoint(ran / "train-muon")
    for row, expected in zip(together.metrics, alone.metrics, strict=True):
        assert row.keys() == expected.keys()
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert row["teacher_loss"] == pytest.approx(expected["teacher_loss"], rel=1e-3)
    assert together.metrics[-1]["validation_loss"] == pytest.approx(alone.evaluation.loss_nats, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_the_model_of_one(ran: Path, tiny: Tiny, tiny_store: TokenStore, kind: str) -> None:
    alone = train(trained(tiny), tiny_store)
    together = load_checkpoint(ran / f"train-{kind}")
    assert together.step == 7
    for row, expected in zip(together.metrics, alone.metrics, strict=True):
        assert row.keys() == expected.keys()
        for name in ("loss", "penalty", "gradient_norm"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
        assert row["layer_gradient_norm"] == pytest.approx(expected["layer_gradient_norm"], rel=1e-4)
        assert row["threshold"] == pytest.approx(expected["threshold"], rel=1e-5)
    assert together.metrics[-1]["validation_loss"] == pytest.approx(alone.evaluation.loss_nats, abs=1e-5)
    # One process can go on with it, and so could any other number.
    resumed = train(trained(tiny), tiny_store, resume_from=ran / f"train-{kind}")
    assert resumed.evaluation.loss_nats == pytest.approx(alone.evaluation.loss_nats, abs=1e-5)


@pytest.mark.slow
def test_the_command_under_torchrun(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(training={"parallel": "ddp"})
    settings = tmp_path / "run.yaml"
    settings.write_text(json.dumps(config.to_dict()))
    done = torchrun("-m", "hushlm", "train", "--config", str(settings), "--progress", "none", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 12  # printed once
    assert load_checkpoint(config.output).step == 12


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({}, ["--training.parallel", "ddp"], ["torchrun", "training.parallel"]),
        ({"WORLD_SIZE": "2", "RANK": "0"}, [], ["2 processes", "--training.parallel ddp"]),
        ({"WORLD_SIZE": "9", "RANK": "0"}, ["--training.parallel", "ddp"], ["batch of 8", "9 processes"]),
        ({}, ["--training.device", "cuda"], ["GPU"]),
    ],
)
def test_what_does_not_go_together_is_refused(
    environment: dict[str, str], options: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)


@pytest.mark.slow
def test_a_rank_killed_on_the_way(tiny: Tiny, tmp_path: Path) -> None:
    """torchrun takes the others down; both go on from the last checkpoint to the bytes of a run that nobody disturbed."""

    def start(config: RunConfig, name: str) -> subprocess.CompletedProcess[str]:
        settings = tmp_path / f"{name}.yaml"
        settings.write_text(json.dumps(config.to_dict()))
        options = ["--config", str(settings), "--resume", "auto", "--checkpoint_every", "4", "--progress", "none"]
        return torchrun(str(Path(__file__).with_name("mortal.py")), *options)

    whole = trained(tiny, parallel="fsdp", steps=10)
    killed = replace(whole, output=tmp_path / "killed")
    assert start(whole, "whole").returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_RANK_1_AT_STEP", "7")
        assert start(killed, "killed").returncode != 0
    assert load_checkpoint(killed.output).step == 4
    assert start(killed, "killed").returncode == 0
    for path in (path for path in whole.output.rglob("*") if path.is_file()):
        assert path.read_bytes() == (killed.output / path.relative_to(whole.output)).read_bytes(), path.name
