"""What can be watched while a run goes on: rows as they come, verdicts, gradients by layer, and trackers."""

from __future__ import annotations

import importlib.machinery
import json
import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hushlm.training.track as track
from hushlm.config import ModelShape, RunConfig
from hushlm.data import TokenStore
from hushlm.entropy import summarise
from hushlm.training import Divergence, StepRecord, linear_algebra_threads, train
from hushlm.training.records import layer_gradients
from hushlm.training.track import open_tracker, scalars

Tiny = Callable[..., RunConfig]
PAPER = "EReg(SM(t)+ScFuFFN)"


def test_rows_carry_verdicts_and_gradients(tiny: Tiny, tiny_store: TokenStore) -> None:
    result = train(tiny(PAPER), tiny_store)
    for row in result.metrics:
        report = summarise(row["head_entropy_nats"], 32)
        assert row["share_per_range"] == list(report.share_per_range)
        assert row["overload"] == report.overload
        assert row["collapse"] == report.collapse
        assert row["collapsed_layers"] == list(report.collapsed_layers)
        assert len(row["layer_gradient_norm"]) == 2
        assert 0 < math.hypot(*row["layer_gradient_norm"]) <= row["gradient_norm"] * (1 + 1e-6)
        assert row["nonfinite_gradients"] == row["nonfinite_entropies"] == [0, 0]


def test_layer_gradients_count_what_is_not_finite() -> None:
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
    model.other = nn.Linear(3, 3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    bad = model.blocks[1].weight
    assert isinstance(bad, nn.Parameter)
    assert bad.grad is not None
    bad.grad[0] = torch.tensor([math.nan, math.inf, 1.0])
    norms, counts = layer_gradients(model, 3)
    assert norms[0] == norms[2] == pytest.approx(math.sqrt(12))
    assert not math.isfinite(norms[1])
    assert counts == [0, 2, 0]


def test_a_broken_gradient_is_named(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny("SM", training={"learning_rate": 1e8, "clip_norm": None, "warmup_steps": 0, "steps": 60})
    with pytest.raises(Divergence, match=r"numbers of the gradient in layers? [\d-]+ (and [\d-]+ )?are not finite"):
        train(config, tiny_store)


def test_rows_are_there_while_the_run_goes_on(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER)
    live = config.output.with_name("checkpoint.metrics.jsonl")
    seen: list[list[Any]] = []

    def look(record: StepRecord) -> None:
        if record.row is not None:
            seen.append([json.loads(line) for line in live.read_text().splitlines()])

    result = train(config, tiny_store, on_step=look)
    assert [rows[-1]["step"] for rows in seen] == [row["step"] for row in result.metrics]
    assert seen[-1] == result.metrics


def test_scalars_have_stable_names() -> None:
    row = {
        "step": 3,
        "loss": 2.5,
        "penalty": None,
        "head_entropy_nats": [[1.0, 2.0], [3.0, 4.0]],
        "temperature": {"mean": 0.5},
        "collapse": True,
        "collapsed_layers": [1],
    }
    assert scalars(row) == {
        "loss": 2.5,
        "head_entropy_nats/0/0": 1.0,
        "head_entropy_nats/0/1": 2.0,
        "head_entropy_nats/1/0": 3.0,
        "head_entropy_nats/1/1": 4.0,
        "temperature/mean": 0.5,
        "collapse": 1.0,
    }


def test_off_by_default(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER)
    train(config, tiny_store)
    assert RunConfig().training.track == "none"
    names = {path.name for path in config.output.parent.iterdir()}
    assert names == {"checkpoint", "checkpoint.metrics.jsonl"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_row(tiny: Tiny, tiny_store: TokenStore) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(PAPER, training={"track": "tensorboard"})
    result = train(config, tiny_store)
    events = EventAccumulator(str(config.output.with_name("checkpoint.tensorboard")), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {name for row in result.metrics for name in scalars(row)}
    for name in ("loss", "layer_entropy_nats/1", "threshold/mean"):
        expected = [(row["step"], scalars(row)[name]) for row in result.metrics]
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(s, pytest.approx(v, rel=1e-6)) for s, v in expected]


def test_wandb_is_started_once_and_continued(tiny: Tiny, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    run = types.SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append(("finish",)))

    def init(**options: Any) -> types.SimpleNamespace:
        calls.append(("init", options))
        return run

    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = tiny(PAPER, training={"track": "wandb"})
    result = train(config, tiny_store)
    (_, options), *logged, last = calls
    assert options["id"] == options["name"] == "checkpoint"
    assert options["resume"] == "allow"
    assert options["config"]["training"]["steps"] == 12
    assert logged == [(row["step"], scalars(row)) for row in result.metrics]
    assert last == ("finish",)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"training.track = {kind} needs {kind}.*pip install"):
        open_tracker(kind, tmp_path / "out", 0, {})


def test_threads_by_the_models_width() -> None:
    torch.set_num_threads(2)
    try:
        small, large = RunConfig(), RunConfig(shape=ModelShape(width=768, heads=12))
        with linear_algebra_threads(small):
            assert torch.get_num_threads() == 1
        with linear_algebra_threads(large):
            assert torch.get_num_threads() == 2
        with linear_algebra_threads(replace(small, training=replace(small.training, threads=3))):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
