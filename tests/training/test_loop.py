"""The loop: it learns, it repeats and resumes to the bit, and it stops before a bad update."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hushlm.training.loop as loop
from hushlm.config import RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.training import Divergence, StepRecord, build_model, learning_rate, load_checkpoint, train

Tiny = Callable[..., RunConfig]
PAPER = "EReg(SM(t)+ScFuFFN)"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("architecture", "optimiser"),
    [*((name, "adamw") for name in (PAPER, "SM+LN+G", "SM2+R", "SM+SNorm(QK)")), ("SM2+R", "muon"), ("SM+WNorm(QKV+FFN)", "muon")],
)
def test_training_lowers_the_loss(tiny: Tiny, tiny_store: TokenStore, architecture: str, optimiser: str) -> None:
    config = tiny(architecture, training={"steps": 60, "learning_rate": 1e-2, "optimiser": optimiser})
    result = train(config, tiny_store)
    untrained, _ = build_model(replace(config, shape=result.config.shape))
    settings = config.training
    before = loop.evaluate(untrained, tiny_store.tokens["validation"], settings.batch, 32, settings.evaluation_batches)
    assert before.loss_nats > 5.0
    assert result.evaluation.loss_nats < 3.0
    assert result.evaluation.perplexity == pytest.approx(math.exp(result.evaluation.loss_nats))
    assert result.cpu_seconds > 0
    assert not result.model.training


def test_vocabulary_is_the_tokenizers(tiny: Tiny) -> None:
    config = tiny(data={"tokenizer": "bpe:280"}, shape={"vocabulary": 7})
    result = train(config, open_token_store(config.data))
    assert result.config.shape.vocabulary == 280
    assert result.model.embedding.weight.shape == (280, 16)


def test_rows(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER, training={"steps": 14, "watch_every": 4, "evaluate_every": 6})
    records: list[StepRecord] = []
    result = train(config, tiny_store, on_step=records.append)
    assert [record.step for record in records] == list(range(1, 15))
    assert all(record.steps == 14 and record.tokens_per_second > 0 for record in records)
    rows = [record.row for record in records if record.row is not None]
    assert rows == result.metrics
    assert [row["step"] for row in rows] == [1, 4, 6, 8, 12, 14]
    assert [row["step"] for row in rows if "validation_loss" in row] == [6, 12, 14]
    assert [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()] == rows
    for row in rows:
        assert torch.tensor(row["head_entropy_nats"]).shape == (2, 2)
        assert row["layer_entropy_nats"] == pytest.approx([sum(heads) / 2 for heads in row["head_entropy_nats"]])
        assert 0 <= min(map(min, row["head_entropy_nats"])) <= math.log(32)
        assert row["learning_rate"] == learning_rate(row["step"] - 1, config.training)
    assert rows[0]["temperature"]["mean"] == pytest.approx(0.5, abs=0.01)
    assert rows[-1]["temperature"]["min"] < rows[-1]["temperature"]["max"]
    assert set(rows[0]["threshold"]) == {"mean", "min", "max"}
    assert rows[-1]["validation_loss"] == result.evaluation.loss_nats
    assert rows[-1]["regulariser_weight"] == 0
    assert rows[0]["regulariser_weight"] == 0.1


def test_without_regulariser_and_temperature_the_rows_say_so(tiny: Tiny, tiny_store: TokenStore) -> None:
    row = train(tiny("SM+R"), tiny_store).metrics[0]
    assert row["temperature"] is None
    assert row["threshold"] is None
    assert row["penalty"] is None
    assert row["regulariser_weight"] == 0


def test_the_regulariser_acts(tiny: Tiny, tiny_store: TokenStore) -> None:
    """A heavy penalty pulls the head entropies to the thresholds; the same run without it stays outside the margin."""
    entropy = {"weight": 20.0, "weight_end_fraction": None, "tolerance": 0.05, "initial_threshold": 0.2, "initial_temperature": 1.0}
    training = {"steps": 80, "learning_rate": 1e-2}
    distances = {}
    for architecture in ("SM(t)+ScFuFFN", PAPER):
        config = tiny(architecture, training=training, entropy=entropy)
        result = train(config, tiny_store)
        target = 0.2 * math.log(32) if result.regulariser is None else result.regulariser.threshold_LH.detach() * math.log(32)
        distances[architecture] = (result.evaluation.head_entropy_nats_LH - target).abs().mean().item()
    assert distances[PAPER] < 0.25
    assert distances[PAPER] < 0.5 * distances["SM(t)+ScFuFFN"]


def test_same_seed_same_bytes_other_seed_other_bytes(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER)
    train(config, tiny_store)
    first = bytes_of(config.output)
    torch.rand(100)  # whatever the caller drew from the global generator
    train(config, tiny_store)
    assert bytes_of(config.output) == first
    train(replace(config, training=replace(config.training, seed=1)), tiny_store)
    assert bytes_of(config.output)["model.safetensors"] != first["model.safetensors"]


def test_the_callers_random_state_and_threads_are_left_alone(tiny: Tiny, tiny_store: TokenStore) -> None:
    before = torch.get_rng_state()
    train(tiny(training={"steps": 1, "threads": 2}), tiny_store)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 1


class InterruptedRunError(Exception):
    pass


def interrupt_at(step: int) -> Callable[[StepRecord], None]:
    def on_step(record: StepRecord) -> None:
        if record.step == step:
            raise InterruptedRunError

    return on_step


def resumed_equals_uninterrupted(config: RunConfig, tiny_store: TokenStore, interrupted: int) -> None:
    train(config, tiny_store)
    whole = bytes_of(config.output)
    other = replace(config, output=config.output.with_name("resumed"))
    with pytest.raises(InterruptedRunError):
        train(other, tiny_store, on_step=interrupt_at(interrupted), checkpoint_every=2)
    checkpoint = load_checkpoint(other.output)
    assert checkpoint.step == (interrupted - 1) // 2 * 2
    records: list[StepRecord] = []
    train(other, tiny_store, on_step=records.append, resume_from=other.output)
    assert records[0].step == checkpoint.step + 1
    assert bytes_of(other.output) == whole


@pytest.mark.parametrize("architecture", [PAPER, "SM+SNorm(QK)", "SM+LN+G", "SM+WNorm(QKV+FFN)"])
@pytest.mark.parametrize("interrupted", [5, 9, 11])
def test_resumed_equals_uninterrupted(tiny: Tiny, tiny_store: TokenStore, architecture: str, interrupted: int) -> None:
    """Step 9 of 12 lies after the end of EReg's weight, where its threshold has no gradient any more."""
    resumed_equals_uninterrupted(tiny(architecture), tiny_store, interrupted)


def test_a_size_that_one_side_leaves_at_its_default_is_compared_too(tiny: Tiny, tiny_store: TokenStore) -> None:
    plain, wide = tiny("SM+R"), tiny("SM+R", shape={"explicit_ffn_width": 24})
    for saved, wanted, part in ((plain, wide, "= None, not 24"), (wide, plain, "= 24, not None")):
        train(saved, tiny_store)
        with pytest.raises(ValueError, match=f"shape.explicit_ffn_width {part}"):
            train(wanted, tiny_store, resume_from="auto")


@pytest.mark.parametrize("architecture", [PAPER, "SM+WNorm(QKV+FFN)"])
def test_resumed_equals_uninterrupted_with_muon(tiny: Tiny, tiny_store: TokenStore, architecture: str) -> None:
    config = tiny(architecture, training={"optimiser": "muon", "clip_norm": 0.5})
    resumed_equals_uninterrupted(config, tiny_store, 9)
    state = load_file(config.output / "state/optimiser.safetensors")
    assert {name.split("/")[0] for name in state if ".attention.value." in name and "weight" in name} >= {"momentum_buffer"}
    assert "exp_avg/model.embedding.weight" in state
    with pytest.raises(ValueError, match=r"training\.optimiser = muon, not adamw"):
        train(tiny(architecture, training={"clip_norm": 0.5}), tiny_store, resume_from=config.output)


def test_resume_at_the_end_changes_nothing(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny(PAPER)
    first = train(config, tiny_store)
    whole = bytes_of(config.output)
    again = train(config, tiny_store, resume_from=config.output)
    assert again.evaluation.loss_nats == first.evaluation.loss_nats
    assert bytes_of(config.output) == whole


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ({"training": {"seed": 1}}, "training.seed = 0, not 1"),
        ({"training": {"steps": 13}}, "training.steps = 12, not 13"),
        ({"shape": {"width": 32}}, "shape.width = 16, not 32"),
        ({"entropy": {"weight": 0.5}}, "entropy.weight = 0.1, not 0.5"),
    ],
)
def test_another_runs_checkpoint_is_refused(tiny: Tiny, tiny_store: TokenStore, sections: dict[str, Any], setting: str) -> None:
    config = tiny(PAPER)
    train(config, tiny_store)
    with pytest.raises(ValueError, match=setting):
        train(tiny(PAPER, **sections), tiny_store, resume_from=config.output)
    with pytest.raises(ValueError, match="architecture = "):
        train(tiny("SM+R"), tiny_store, resume_from=config.output)
    with pytest.raises(ValueError, match="other tokens"):
        train(config, replace(tiny_store, fingerprint="0" * 64), resume_from=config.output)


def poison(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> list[loop._Run]:
    """Before update `step` (from 1), one weight of the last block becomes `value`."""
    runs: list[loop._Run] = []
    update = loop._Run.update

    def poisoned(run: loop._Run) -> Any:
        if not runs:
            runs.append(run)
        if run.step == step - 1:
            with torch.no_grad():
                run.model.get_parameter("blocks.1.attention.query.weight")[0, 0] = value
            run.before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}  # type: ignore[attr-defined]
        return update(run)

    monkeypatch.setattr(loop._Run, "update", poisoned)
    return runs


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_stops_before_the_update(
    tiny: Tiny, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, step: int, value: float
) -> None:
    config = tiny(PAPER)
    runs = poison(monkeypatch, step, value)
    with pytest.raises(Divergence) as caught:
        train(config, tiny_store)
    divergence = caught.value
    assert divergence.step == step
    assert f"before update {step}: the loss is nan" in str(divergence)
    assert "layer 1" in str(divergence)  # the poisoned one, counted from 0
    assert [row["step"] for row in divergence.metrics] == [s for s in (1, 3, 6) if s < step]
    run = runs[0]
    for name, tensor in run.model.state_dict().items():
        assert tensor.numpy().tobytes() == run.before[name].numpy().tobytes(), name  # type: ignore[attr-defined]
    assert run.step == step - 1
    assert not config.output.exists()
    kept = config.output.with_name("checkpoint.diverged.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == divergence.metrics
    monkeypatch.undo()
    train(config, tiny_store)
    assert not config.output.with_name("checkpoint.diverged.jsonl").exists()


def test_divergence_keeps_the_last_checkpoint(tiny: Tiny, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(PAPER)
    poison(monkeypatch, 8, math.nan)
    with pytest.raises(Divergence):
        train(config, tiny_store, checkpoint_every=3)
    checkpoint = load_checkpoint(config.output)
    assert checkpoint.step == 6
    assert all(tensor.isfinite().all() for tensor in checkpoint.model.state_dict().values())


def test_output_that_is_not_ours_is_refused_before_training(tiny: Tiny, tiny_store: TokenStore) -> None:
    config = tiny()
    config.output.mkdir()
    (config.output / "thesis.tex").write_text("years of work")
    records: list[StepRecord] = []
    with pytest.raises(ValueError, match="choose another folder"):
        train(config, tiny_store, on_step=records.append)
    assert records == []


def test_corpus_shorter_than_the_context(tiny: Tiny, tiny_store: TokenStore) -> None:
    with pytest.raises(ValueError, match="too few"):
        train(tiny(shape={"context": 100_000}), tiny_store)


def test_clipping_bounds_the_update(tiny: Tiny, tiny_store: TokenStore) -> None:
    """Adam's first step is blind to the gradient's size but for its epsilon: a gradient clipped to almost nothing hardly moves anything."""
    moved = {}
    for clip_norm in (None, 1e-12):
        config = tiny(training={"steps": 1, "clip_norm": clip_norm, "weight_decay": 0.0})
        result = train(config, tiny_store)
        start, _ = build_model(result.config)
        moved[clip_norm] = max((a - b).abs().max().item() for a, b in zip(result.model.parameters(), start.parameters(), strict=True))
    assert moved[None] == pytest.approx(learning_rate(0, config.training), rel=0.01)
    assert moved[1e-12] < 1e-3 * moved[None]


@pytest.mark.slow
def test_deep_softmax_only_model_diverges_and_the_watch_names_its_deep_layers(tmp_path: Path) -> None:
    """The paper's finding at a small scale: without any normalisation and without clipping, SM breaks; the scaled FFN does not."""
    base = RunConfig.from_dict(
        {
            "architecture": "SM",
            "shape": {"layers": 12, "heads": 4, "width": 64, "context": 64},
            "data": {"cache": str(tmp_path / "data")},
            "training": {"steps": 200, "learning_rate": 2e-2, "clip_norm": None, "threads": 1, "evaluation_batches": 2},
            "output": str(tmp_path / "run"),
        }
    )
    store = open_token_store(base.data)
    with pytest.raises(Divergence) as caught:
        train(base, store)
    assert caught.value.step < 200
    assert len(caught.value.layers) >= 4
    assert caught.value.layers[-1] == 11
    assert not base.output.exists()
