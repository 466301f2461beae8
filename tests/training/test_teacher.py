"""Learning from a teacher: the student comes closer to it, the run stays exact, and a teacher that does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.ranks import gradients
from tests.training.test_loop import bytes_of, resumed_equals_uninterrupted
from tests.training.test_split import assert_same, case, window

from hushlm.config import RunConfig, TrainingConfig
from hushlm.data import TokenStore, fixed_batches, open_token_store
from hushlm.experiments.runs import Job, read_record, run, run_key
from hushlm.model import LanguageModel
from hushlm.training import load_checkpoint, train, with_fingerprints

Tiny = Callable[..., RunConfig]
STUDENT = "EReg(SM2(t)+R)"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A model that has learned something, of twice the student's context."""
    base = tmp_path_factory.mktemp("teacher")
    config = RunConfig.from_dict(
        {
            "architecture": "SM+LN+G",
            "shape": {"layers": 2, "heads": 2, "width": 32, "context": 64},
            "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(base / "data")},
            "training": {"steps": 60, "learning_rate": 1e-2, "warmup_steps": 4, "evaluation_batches": 2, "threads": 1},
            "output": str(base / "checkpoint"),
        }
    )
    train(config, open_token_store(config.data))
    return config.output


def distilled(tiny: Tiny, teacher: Path, architecture: str = STUDENT, **training: Any) -> RunConfig:
    return tiny(architecture, training={"teacher": str(teacher), **training})


@torch.no_grad()
def divergence_nats(teacher: LanguageModel, student: LanguageModel, store: TokenStore) -> float:
    """KL(teacher || student), the mean over validation tokens."""
    found = []
    for window_BT in fixed_batches(store.tokens["validation"], 8, 32, 4):
        log_p, log_q = (model(window_BT[:, :-1]).logits_BTV.double().log_softmax(-1) for model in (teacher, student))
        found.append((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    return torch.stack(found).mean().item()


def test_a_student_comes_closer_to_its_teacher_than_without(tiny: Tiny, tiny_store: TokenStore, teacher: Path) -> None:
    settings: dict[str, Any] = {"steps": 120, "learning_rate": 1e-2}
    alone = train(tiny(STUDENT, training=settings), tiny_store)
    taught = train(distilled(tiny, teacher, **settings, teacher_weight=0.9), tiny_store)
    model = load_checkpoint(teacher).model
    assert divergence_nats(model, taught.model, tiny_store) < 0.8 * divergence_nats(model, alone.model, tiny_store)
    course = [row["teacher_loss"] for row in taught.metrics]
    assert course[-1] < 0.2 * course[0]
    assert not any("teacher_loss" in row for row in alone.metrics)
    # The same weights and batch at the first update: `loss` is the cross-entropy on the text, with a teacher or without.
    assert taught.metrics[0]["loss"] == pytest.approx(alone.metrics[0]["loss"], rel=1e-6)
    assert taught.metrics[0]["gradient_norm"] != pytest.approx(alone.metrics[0]["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize("reduction", ["algorithm", "listing"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("training", [{"micro_batch": 1}, {"micro_batch": 4, "activation_checkpointing": True}])
def test_micro_batches(tiny: Tiny, teacher: Path, reduction: str, temperature: float, training: dict[str, Any]) -> None:
    settings = {"teacher": str(teacher), "teacher_weight": 0.4, "teacher_temperature": temperature}
    expected = gradients(case(tiny, STUDENT, reduction, **settings), window())
    assert expected["teacher_loss"] > 0
    assert_same(gradients(case(tiny, STUDENT, reduction, **settings, **training), window()), expected)
    loss, total = expected["loss"].tolist()
    mixed = 0.6 * loss + 0.4 * temperature**2 * expected["teacher_loss"].item() + 0.3 * expected["penalty"].item()
    assert total == pytest.approx(mixed, rel=1e-5)


def test_bf16_reads_the_teacher_as_the_student(tiny: Tiny, teacher: Path) -> None:
    settings = {"teacher": str(teacher)}
    full, half = (gradients(case(tiny, "SM+R", "listing", **settings, precision=kind), window()) for kind in ("fp32", "bf16"))
    assert half["teacher_loss"] != full["teacher_loss"]
    torch.testing.assert_close(half["teacher_loss"], full["teacher_loss"], rtol=0.02, atol=0)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_resumed_equals_uninterrupted(tiny: Tiny, tiny_store: TokenStore, teacher: Path, optimiser: str) -> None:
    before = bytes_of(teacher)
    resumed_equals_uninterrupted(distilled(tiny, teacher, optimiser=optimiser, teacher_temperature=2.0), tiny_store, 9)
    assert bytes_of(teacher) == before


def test_the_teacher_may_move_but_not_change(tiny: Tiny, tiny_store: TokenStore, teacher: Path, tmp_path: Path) -> None:
    config = distilled(tiny, teacher)
    train(config, tiny_store)
    saved = load_checkpoint(config.output).config.training
    assert saved.teacher == teacher
    assert saved.teacher_fingerprint == with_fingerprints(config).training.teacher_fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    train(distilled(tiny, moved), tiny_store, resume_from=config.output)
    other = replace(tiny("SM+R"), output=tmp_path / "other")
    train(other, tiny_store)
    for wanted in (distilled(tiny, other.output), tiny(STUDENT)):
        with pytest.raises(ValueError, match=r"training\.teacher_fingerprint = \w{64}, not (\w{64}|None)"):
            train(wanted, tiny_store, resume_from=config.output)
    with pytest.raises(ValueError, match="holds another teacher"):
        train(distilled(tiny, other.output, teacher_fingerprint=saved.teacher_fingerprint), tiny_store)


def test_a_run_is_known_by_its_teacher_not_by_where_that_lies(tiny: Tiny, teacher: Path, tmp_path: Path) -> None:
    config, alone = distilled(tiny, teacher), tiny(STUDENT)
    assert run_key(config) != run_key(alone)
    shutil.copytree(teacher, tmp_path / "moved")
    assert run_key(distilled(tiny, tmp_path / "moved")) == run_key(config) == run_key(with_fingerprints(config))
    shutil.copytree(teacher, tmp_path / "altered")
    (tmp_path / "altered" / "manifest.json").write_text("{}")
    assert run_key(distilled(tiny, tmp_path / "altered")) != run_key(config)
    gone = replace(with_fingerprints(config).training, teacher=tmp_path / "gone")
    assert run_key(replace(config, training=gone)) == run_key(config)


def test_a_job_of_a_student_is_recorded_and_found_again(tiny: Tiny, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    job = Job.of(distilled(tiny, tmp_path / "teacher"), tmp_path / "runs", 2, None)
    record = run(job)
    assert record.settings["training"]["teacher_fingerprint"] == job.config.training.teacher_fingerprint
    shutil.rmtree(tmp_path / "teacher")
    assert read_record(job) == record


def refusal(config: RunConfig, store: TokenStore) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        train(config, store)
    assert "\n" not in str(caught.value)
    assert not (config.output / "manifest.json").exists()
    return str(caught.value)


def test_a_teacher_that_does_not_fit_is_refused(tiny: Tiny, tiny_store: TokenStore, teacher: Path, tmp_path: Path) -> None:
    assert "no checkpoint to learn from" in refusal(distilled(tiny, tmp_path / "nowhere"), tiny_store)
    longer = tiny(training={"teacher": str(teacher)}, shape={"context": 65})
    assert "reads 64 tokens at most, and the student 65" in refusal(longer, tiny_store)
    pieces = tiny(training={"teacher": str(teacher)}, data={"tokenizer": "bpe:280"})
    assert "another tokenizer (256 tokens, and here are 280)" in refusal(pieces, open_token_store(pieces.data))
    damaged = tmp_path / "damaged"
    shutil.copytree(teacher, damaged)
    (damaged / "metrics.jsonl").write_text("")
    assert "metrics.jsonl is damaged" in refusal(distilled(tiny, damaged), tiny_store)
    with pytest.raises(ValueError, match="where this run writes"):
        train(replace(distilled(tiny, damaged), output=damaged), tiny_store)
    with pytest.raises(ValueError, match="not where it is"):
        TrainingConfig(teacher_fingerprint="0" * 64)


def test_a_teacher_with_trained_pieces_fits(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(data={"tokenizer": "bpe:280"}, training={"steps": 2})
    store = open_token_store(config.data)
    train(replace(config, output=tmp_path / "teacher"), store)
    student = replace(config, training=replace(config.training, teacher=tmp_path / "teacher"))
    row = train(student, store).metrics[0]
    assert row["teacher_loss"] > 0
    assert json.loads((config.output / "config.json").read_text())["training"]["teacher_fingerprint"]
