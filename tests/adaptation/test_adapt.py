"""A model made cheaper: the fit is the best there is, the old model stays as it was, training goes on from there, misfits are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.test_loop import InterruptedRunError, bytes_of, interrupt_at

from hushlm.adaptation.adapt_model import adapt, start_folder
from hushlm.adaptation.refit import refit
from hushlm.adaptation.rewriting import mean_losses_nats, rewrite
from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import DataConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.files import write_manifest
from hushlm.model import LanguageModel
from hushlm.training import StepRecord, load_checkpoint, train

Tiny = Callable[..., RunConfig]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """GPT-2's design, trained long enough that its activation matters."""
    base = tmp_path_factory.mktemp("adapted")
    config = RunConfig.from_dict(
        {
            "architecture": "SM+LN+G",
            "shape": {"layers": 2, "heads": 2, "width": 32, "context": 32},
            "data": {"corpus": str(text_folder), "validation_share": 0.2, "cache": str(base / "data")},
            "training": {"steps": 150, "learning_rate": 1e-2, "warmup_steps": 4, "evaluation_batches": 2, "threads": 1},
            "output": str(base / "checkpoint"),
        }
    )
    train(config, open_token_store(config.data))
    return config.output


@pytest.fixture(scope="module")
def data(trained: Path) -> DataConfig:
    config = load_checkpoint(trained).config.data
    return replace(config, tokenizer=str(trained / "tokenizer.json"))


@pytest.fixture(scope="module")
def store(data: DataConfig) -> TokenStore:
    return open_token_store(data)


@pytest.fixture
def windows_NT(store: TokenStore) -> torch.Tensor:
    return torch.tensor(np.array(store.tokens["train"][: 48 * 32])).long().reshape(48, 32)


def loss_nats(model: LanguageModel, windows_NT: torch.Tensor) -> float:
    return mean_losses_nats(model, [windows_NT])[0]


@pytest.mark.parametrize("architecture", ["SM+LN+R", "SM+LN+Q", "SM2(th)+LN+R", "SM3(th)+LN+P", "SM+LN"])
def test_a_refit_brings_the_model_back_and_leaves_the_old_one(trained: Path, windows_NT: torch.Tensor, architecture: str) -> None:
    model = load_checkpoint(trained).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rewritten = rewrite(model, parse(architecture), [windows_NT[:32]]).model
    rough = loss_nats(rewritten, windows_NT[40:])
    layers = refit(rewritten, model, windows_NT[:32], windows_NT[32:40])
    assert [layer.layer for layer in layers] == [0, 1]
    assert all(layer.after <= layer.before for layer in layers)
    left, lost = loss_nats(rewritten, windows_NT[40:]) - loss_nats(model, windows_NT[40:]), rough - loss_nats(model, windows_NT[40:])
    assert left < 0.5 * lost
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_is_left_to_fit_of_the_same_architecture(trained: Path, windows_NT: torch.Tensor) -> None:
    model = load_checkpoint(trained).model
    same = rewrite(model, model.architecture, [windows_NT]).model
    layers = refit(same, model, windows_NT[:32], windows_NT[32:])
    assert [(layer.before, layer.after, layer.ridge) for layer in layers] == [(0.0, 0.0, None)] * 2


@pytest.mark.parametrize("norm", ["WNorm(FFN)", "SNorm(FFN)"])
def test_what_normalises_its_weights_stays_as_it_was(windows_NT: torch.Tensor, norm: str) -> None:
    shape = ModelShape(layers=1, heads=2, width=16, context=32, vocabulary=256)
    model = LanguageModel(parse(f"SM+{norm}+G"), shape).eval()
    rewritten = rewrite(model, parse(f"SM2(th)+{norm}+R"), [windows_NT[:4]]).model
    assert refit(rewritten, model, windows_NT[:4], windows_NT[4:8]) == []


@torch.no_grad()
def test_the_first_layer_is_the_weighted_ridge_regression(trained: Path, windows_NT: torch.Tensor) -> None:
    """By an independent solver: the normal equations of the rows and of the penalty, stacked."""
    model = load_checkpoint(trained).model
    rewritten = rewrite(model, parse("SM+LN+R"), [windows_NT]).model
    block: Any = rewritten.blocks[0]
    wanted_block: Any = model.blocks[0]
    positions: Any = model.positions
    x_NTD = model.embedding(windows_NT[:32]) + positions.weight[:32]
    t_MD = wanted_block(x_NTD)[0].flatten(0, 1).double().numpy()
    attended = x_NTD + block.attention(block.norm_attention(x_NTD), None)[0]
    a_MF = block.feed_forward.expand(block.norm_feed_forward(attended)).relu().flatten(0, 1).double().numpy()
    old = np.vstack([block.feed_forward.contract.weight.T, block.feed_forward.contract.bias]).astype(np.float64)
    [first, _] = refit(rewritten, model, windows_NT[:32], windows_NT[32:])
    assert first.ridge is not None
    rows = np.hstack([a_MF, np.ones((len(a_MF), 1))])
    weights = np.sqrt(1 / (t_MD**2).mean(1, keepdims=True))
    residual = t_MD - attended.flatten(0, 1).double().numpy() - rows @ old
    penalty = np.sqrt(first.ridge * ((weights * rows) ** 2).sum(0))
    penalty = np.maximum(penalty, np.sqrt(first.ridge * 1e-9 * ((weights * rows) ** 2).sum(0).max()))
    stacked, aim = np.vstack([weights * rows, np.diag(penalty)]), np.vstack([weights * residual, np.zeros_like(old)])
    wanted = old + np.linalg.lstsq(stacked, aim, rcond=None)[0]
    found = np.vstack([block.feed_forward.contract.weight.T, block.feed_forward.contract.bias])
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        ("SM2(th)+R", "no place for blocks.0.norm_attention"),
        ("SM+LN+B", "no blocks.0.feed_forward.gate.weight"),
        ("SM+ScFuFFN", "no blocks.0.feed_forward.alpha"),
        ("NeoX(SM+LN+R)", "no place for positions.weight"),
        ("SM(qk)+LN+R", "normalises queries and keys"),
    ],
)
def test_other_weights_are_refused_by_name(trained: Path, windows_NT: torch.Tensor, architecture: str, part: str) -> None:
    with pytest.raises(ValueError, match=r"SM\+LN\+G cannot be rewritten as") as caught:
        rewrite(load_checkpoint(trained).model, parse(architecture), [windows_NT])
    assert part in str(caught.value)


def adapted(trained: Path, output: Path, store: TokenStore, data: DataConfig, **options: Any) -> Any:
    return adapt(load_checkpoint(trained), output, "SM2(th)+LN+R", store, data, fit_tokens=2048, **options)


def test_steps_come_nearer_and_conversations_stay(trained: Path, store: TokenStore, data: DataConfig, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "chatty")
    (tmp_path / "chatty/chat_template.jinja").write_text(TEMPLATE)
    manifest = json.loads((tmp_path / "chatty/manifest.json").read_text())
    write_manifest(tmp_path / "chatty")
    assert len(json.loads((tmp_path / "chatty/manifest.json").read_text())["files"]) == len(manifest["files"]) + 1
    training = TrainingConfig(steps=40, batch=8, learning_rate=2e-3, warmup_steps=4, threads=1, teacher_weight=1.0, weight_decay=0)
    report = adapted(tmp_path / "chatty", tmp_path / "new", store, data, training=training)
    losses = [stage.loss_nats for stage in report.stages]
    assert [stage.name for stage in report.stages] == ["as it was", "rewritten", "refitted", "trained"]
    assert losses[1] > losses[2] > losses[3] > losses[0] - 0.05
    made = load_checkpoint(tmp_path / "new")
    assert made.config.architecture == "SM2(th)+LN+R"
    assert (made.folder / "chat_template.jinja").read_text() == TEMPLATE
    first = made.metrics[0]
    start = load_checkpoint(start_folder(tmp_path / "new")).model
    assert first["loss"] < losses[1]
    assert loss_nats(start, torch.tensor(np.array(store.tokens["test"][:2048])).long().reshape(-1, 32)) == pytest.approx(losses[2], rel=0.1)


def test_an_interrupted_training_is_resumed_to_the_same_bytes(trained: Path, store: TokenStore, data: DataConfig, tmp_path: Path) -> None:
    training = TrainingConfig(steps=10, batch=4, learning_rate=1e-3, warmup_steps=2, threads=1, evaluation_batches=2)
    output = tmp_path / "new"
    adapted(trained, output, store, data, training=training)
    whole = bytes_of(output)
    for folder in (output, start_folder(output)):
        shutil.rmtree(folder)
    with pytest.raises(InterruptedRunError):
        adapted(trained, output, store, data, training=training, on_step=interrupt_at(7), checkpoint_every=2)
    assert load_checkpoint(output).step == 6
    began = (start_folder(output) / "manifest.json").stat()
    with pytest.raises(ValueError, match="Only a training can be resumed"):
        adapted(trained, output, store, data, resume_from="auto")
    records: list[StepRecord] = []
    adapted(trained, output, store, data, training=training, on_step=records.append, resume_from="auto")
    assert records[0].step == 7
    assert (start_folder(output) / "manifest.json").stat() == began, "what the training began with is not made again"
    assert bytes_of(output) == whole


def test_a_start_that_does_not_fit_is_refused(trained: Path, store: TokenStore, data: DataConfig, tmp_path: Path) -> None:
    shape, training = load_checkpoint(trained).config.shape, TrainingConfig(steps=2, start=trained, threads=1, evaluation_batches=1)
    fits = RunConfig(architecture="SM+LN+G", shape=shape, data=data, training=training, output=tmp_path / "new")
    begun = train(fits, store)
    assert begun.metrics[0]["loss"] < 2.5, "random weights would begin at log 256 = 5.5"
    for changes, part in (
        ({"architecture": "SM+LN+R"}, "is a SM+LN+G, and the run a SM+LN+R"),
        ({"shape": replace(shape, layers=1)}, "has other sizes"),
        ({"output": trained}, "where this run writes"),
        ({"training": replace(training, start=tmp_path / "absent")}, "no checkpoint to start from"),
        ({"training": replace(training, start_fingerprint="0" * 64)}, "holds another checkpoint"),
    ):
        with pytest.raises(ValueError, match=re.escape(part)):
            train(replace(fits, **changes), store)
    with pytest.raises(ValueError, match="where it is"):
        TrainingConfig(start_fingerprint="0" * 64)


def test_the_command_tells_each_stage_and_its_price(
    trained: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--text", str(text_folder), "--cache", str(tmp_path / "data"), "--fit-tokens", "2048", "--progress", "none"]
    assert main(["adapt", str(trained), str(tmp_path / "new"), "SM2(th)+LN+R", *options, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["name"] for stage in stages] == ["as it was", "rewritten", "refitted"]
    assert stages[0]["ratio"] == 1
    assert stages[0]["price"]["bytes"] > stages[2]["price"]["bytes"] == stages[1]["price"]["bytes"]
    assert main(["adapt", str(trained), str(tmp_path / "new"), "SM2(th)+LN+R", *options]) == 0
    out = capsys.readouterr().out
    assert "refitted" in out
    assert "Next: hushlm export" in out


def test_a_training_that_diverges_ends_in_a_sentence(
    trained: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--text",
        str(text_folder),
        "--cache",
        str(tmp_path / "data"),
        "--fit-tokens",
        "0",
        "--steps",
        "30",
        "--learning-rate",
        "1e9",
    ]
    assert main(["adapt", str(trained), str(tmp_path / "new"), "SM2(th)+LN+Q", *options, "--progress", "json"]) == 1
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [event["name"] for event in events if event["event"] == "stage"] == ["as it was", "rewritten"]
    assert events[-1]["event"] == "diverged"
    assert captured.err.splitlines()[-1].startswith("hushlm: ")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"options": ["--resume", "auto"]}, "Only a training can be resumed"),
        ({"architecture": "SM2+X"}, "SM2+X"),
        ({"architecture": "NeoX(SM+LN+R)"}, "cannot be rewritten"),
        ({"output": "SOURCE"}, "choose another folder"),
        ({"source": "absent"}, "absent"),
        ({"text": "short.txt"}, "too short"),
        ({"options": ["--steps", "-1"]}, "neither may be negative"),
    ],
)
def test_what_cannot_be_adapted_is_said_in_a_sentence(
    trained: Path, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], part: str
) -> None:
    (tmp_path / "short.txt").write_text("a few words\n" * 8)
    before = bytes_of(trained)
    source = tmp_path / changes["source"] if "source" in changes else trained
    output = trained if "output" in changes else tmp_path / "new"
    text = str(tmp_path / changes["text"]) if "text" in changes else str(text_folder)
    options = ["--text", text, "--cache", str(tmp_path / "data"), "--progress", "none", *changes.get("options", [])]
    assert main(["adapt", str(source), str(output), changes.get("architecture", "SM2(th)+LN+R"), *options]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("hushlm: ")
    assert part in err
    assert bytes_of(trained) == before
    assert not (tmp_path / "new").exists()
