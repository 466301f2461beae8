"""Commands that print results: what they say is what the library computes, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hushlm.architectures import REGISTRY, parse
from hushlm.cli.main import main
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import nonlinear_operations
from hushlm.data import open_token_store
from hushlm.recommended import RECOMMENDED
from hushlm.training import evaluate, load_checkpoint

PNG = b"\x89PNG\r\n\x1a\n"


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON document of a command."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def settings(tiny: Callable[..., RunConfig], tmp_path: Path) -> Path:
    """A run of seconds as YAML."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny("EReg(SM(t)+ScFuFFN)").to_dict()))
    return path


@pytest.fixture
def checkpoint(settings: Path, tiny: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]) -> Path:
    """Made by the command."""
    assert main(["train", "--config", str(settings), "--progress", "none"]) == 0
    capsys.readouterr()
    return tiny().output


def test_architectures_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "architectures")
    assert [row["name"] for row in document["architectures"]] == [str(a) for a in REGISTRY]
    shape = ModelShape(**document["shape"])
    for row in document["architectures"]:
        expected = nonlinear_operations(parse(row["name"]), shape)
        assert [(o["name"], o["count"], o["rows"], o["columns"]) for o in row["nonlinear_operations"]] == [
            (o.name, o.count, o.rows, o.columns) for o in expected
        ]
    descriptions = [row["description"] for row in document["architectures"]]
    assert len(set(descriptions)) == len(descriptions), "every architecture is described by what sets it apart"


def test_architectures_at_another_shape_leave_out_what_cannot_be_built(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "architectures", "--shape.layers", "2", "--shape.heads=4")
    assert document["shape"]["layers"] == 2
    assert not [row for row in document["architectures"] if "deepest" in row["name"]]
    assert main(["architectures"]) == 0
    table = capsys.readouterr().out
    assert all(str(a) in table for a in REGISTRY)
    assert [point["name"] for point in document["recommended"]] == list(RECOMMENDED)
    assert all(name in table for name in RECOMMENDED)


def test_train_saves_settings_that_make_the_same_checkpoint(
    settings: Path, tiny: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = answer(capsys, "train", "--config", str(settings), "--progress", "none", "--training.learning-rate", "1e-2")
    saved = yaml.safe_load(Path(first["settings"]).read_text())
    assert saved["training"]["learning_rate"] == 1e-2
    assert saved["shape"]["vocabulary"] == 256
    loaded = load_checkpoint(Path(first["checkpoint"]))
    assert RunConfig.from_dict(saved) == loaded.config
    second = answer(capsys, "train", "--config", first["settings"], "--progress", "none", "--output", str(tmp_path / "again"))
    files = {path.relative_to(first["checkpoint"]) for path in Path(first["checkpoint"]).rglob("*") if path.is_file()}
    assert Path("config.json") in files
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (Path(first["checkpoint"]) / name).read_bytes(), name
    assert second["validation_perplexity"] == first["validation_perplexity"] == pytest.approx(math.exp(first["validation_loss_nats"]))


def test_train_tells_another_program_how_far_it_is(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(settings), "--progress", "json"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert {event["event"] for event in events[:-1]} == {"step"}
    assert [event["step"] for event in events[:-1]] == sorted({event["step"] for event in events[:-1]})
    assert events[-2]["step"] == events[-2]["steps"] == 12
    assert events[-1]["event"] == "done"
    assert events[-1]["validation_perplexity"] == events[-2]["perplexity"]


def test_a_run_that_diverges_ends_with_one_and_says_why(
    tiny: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("SM", training={"learning_rate": 1e6, "clip_norm": None, "steps": 60, "warmup_steps": 0})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert main(["train", "--config", str(path), "--progress", "json"]) == 1
    captured = capsys.readouterr()
    event = json.loads(captured.out.splitlines()[-1])
    assert event["event"] == "diverged"
    assert captured.err == f"hushlm: {event['reason']}\n"
    assert not config.output.exists()


def test_resuming_goes_on_to_the_same_end(settings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The longer run stops nowhere; the other is cut by a checkpoint on the way and taken up from there.
    code = main(["train", "--config", str(settings), "--resume", str(checkpoint), "--training.steps", "13", "--progress", "none"])
    assert code == 2
    assert "training.steps = 12, not 13" in capsys.readouterr().err


def test_eval_prints_what_the_library_computes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "eval", str(checkpoint), "--split", "test", "--batches", "3")
    loaded = load_checkpoint(checkpoint)
    store = open_token_store(loaded.config.data)
    expected = evaluate(loaded.model, store.tokens["test"], 4, 32, 3)
    assert document["perplexity"] == expected.perplexity
    assert document["same_corpus"] is True
    assert document["bits_per_byte"] == pytest.approx(expected.loss_nats / math.log(2), rel=0.02)  # a byte a token, but for separators
    assert main(["eval", str(checkpoint)]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_entropy_prints_and_draws_every_head(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures"
    document = answer(capsys, "entropy", str(checkpoint), "--batches", "3", "--output", str(figures))
    loaded = load_checkpoint(checkpoint)
    expected = evaluate(loaded.model, open_token_store(loaded.config.data).tokens["validation"], 4, 32, 3).head_entropy_nats_LH
    assert document["head_entropy_nats_LH"] == expected.tolist()
    assert sum(document["share_per_range"]) == pytest.approx(1)
    for nats, share in zip(document["head_entropy_nats_LH"], document["head_share_of_attainable_LH"], strict=True):
        assert share == pytest.approx([value * 32 / math.lgamma(33) for value in nats])
    assert sorted(Path(path).name for path in document["figures"]) == ["head-entropy.png", "head-share.png", "layer-entropy.png"]
    assert all(Path(path).read_bytes().startswith(PNG) for path in document["figures"])
    assert main(["entropy", str(checkpoint), "--batches", "3"]) == 0
    table = capsys.readouterr().out
    for value in expected.flatten().tolist():
        assert f"{value:.2f} (" in table
    assert "overload: " in table
    assert "collapse: " in table
