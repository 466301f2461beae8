"""EntropyTrainer on the real Trainer: the loss it says it has, thresholds that learn, are saved and come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from hushlm.config import EntropyConfig
from hushlm.entropy import EntropyRegulariser
from tests.huggingface.models import CONTEXT, FAMILIES, eager, prefixed, tiny

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
pytest.importorskip("accelerate", reason="the hf extra is not installed")

from transformers import TrainerCallback  # noqa: E402

from hushlm.huggingface import EntropyTrainer  # noqa: E402

every_family = pytest.mark.parametrize("family", FAMILIES)
CONSTANT = EntropyConfig(weight=0.5, weight_end_fraction=None, tolerance=0.05, initial_threshold=0.4)


def dataset(count: int = 16) -> list[dict[str, torch.Tensor]]:
    """Sequences over few tokens, so that there is something to learn. The first label, which nothing predicts, is left out of counts."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(0, 8, (count, CONTEXT), generator=generator)
    return [{"input_ids": row, "labels": torch.cat((torch.tensor([-100]), row[1:]))} for row in rows]


def arguments(folder: Path, **settings: Any) -> Any:
    values = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return transformers.TrainingArguments(**(values | settings))


def trainer(model: Any, folder: Path, entropy: EntropyConfig = CONSTANT, data: Any = None, **settings: Any) -> EntropyTrainer:
    return EntropyTrainer(
        model=model, args=arguments(folder, **settings), train_dataset=data or dataset(), entropy=entropy, context=CONTEXT
    )


@every_family
def test_five_lines_train_thresholds_and_leave_a_plain_checkpoint(family: str, tmp_path: Path) -> None:
    model = tiny(family, spread=0.05)
    run = trainer(model, tmp_path, max_steps=12, save_strategy="steps", save_steps=12, weight_decay=0.5)
    run.train()
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    first = next(row for row in run.state.log_history if "entropy_penalty" in row)
    assert first["entropy_penalty"] > 0
    assert 0 < first["entropy_nats"] < torch.tensor(float(CONTEXT)).log()
    assert first["entropy_weight"] == 0.5
    threshold_LH = run.regulariser.threshold_LH.detach()
    assert threshold_LH.shape == (3, 4)
    assert bool((threshold_LH != 0.4).any()), "no threshold has moved"
    saved = tmp_path / "checkpoint-12"
    assert torch.equal(load_file(saved / "entropy_thresholds.safetensors")["threshold_LH"], threshold_LH)
    assert EntropyConfig(**json.loads((saved / "entropy_config.json").read_text())) == CONSTANT
    back, found = transformers.AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    tokens = dataset()[0]["input_ids"][None]
    torch.testing.assert_close(back.eval()(tokens).logits, model.eval()(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduction", ["algorithm", "listing"])
@every_family
def test_an_update_is_the_one_of_loss_plus_lambda_times_penalty(family: str, reduction: Any, tmp_path: Path) -> None:
    entropy = EntropyConfig(weight=0.01, weight_end_fraction=None, tolerance=0.05, initial_threshold=0.2, reduction=reduction)
    data = dataset(4)
    model, reference = tiny(family, spread=0.05), tiny(family, spread=0.05)
    run = trainer(model, tmp_path, entropy, data, max_steps=1, optim="sgd", max_grad_norm=0.0, learning_rate=0.1)
    run.train()
    tokens = torch.stack([row["input_ids"] for row in data])
    regulariser = EntropyRegulariser(3, 4, CONTEXT, tolerance=0.05, initial_threshold=0.2, reduction=reduction)
    logits, rows_LHN = eager(reference, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    (loss + 0.01 * regulariser(rows_LHN.float()[:, None])).backward()
    expected = {n: p - 0.1 * p.grad for n, p in reference.named_parameters() if p.grad is not None}
    moved = dict(model.named_parameters())
    threshold_LH = moved.pop("entropy_regulariser.threshold_LH")
    assert regulariser.threshold_LH.grad is not None
    torch.testing.assert_close(threshold_LH, regulariser.threshold_LH - 0.1 * regulariser.threshold_LH.grad, rtol=1e-4, atol=1e-6)
    for name, parameter in moved.items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5, msg=partial(prefixed, name))


def updated(tmp_path: Path, entropy: EntropyConfig, **settings: Any) -> dict[str, torch.Tensor]:
    model = tiny("gpt2", spread=0.05)
    trainer(model, tmp_path, entropy, dataset(8), max_steps=1, optim="sgd", max_grad_norm=0.0, learning_rate=0.1, **settings).train()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("reduction", ["algorithm", "listing"])
def test_accumulated_micro_batches_give_the_update_that_is_documented(reduction: Any, tmp_path: Path) -> None:
    entropy = EntropyConfig(weight=0.02, weight_end_fraction=None, tolerance=0.0, initial_threshold=0.1, reduction=reduction)
    whole = updated(tmp_path, entropy, per_device_train_batch_size=8)
    parts = updated(tmp_path, entropy, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    without = updated(tmp_path, EntropyConfig(weight=0.0, weight_end_fraction=None), per_device_train_batch_size=8)
    name = "entropy_regulariser.threshold_LH"
    if reduction == "listing":
        for key in whole:
            torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)
    else:
        # A margin of 0 and a target below every entropy: the penalty's gradient in theta is linear in the mean entropy.
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(whole[name], without[name] - 0.05, atol=1e-3)


def updated_by(folder: Path, reduction: Any, batch: int) -> dict[str, torch.Tensor]:
    """One update on eight sequences, `batch` of them in each process."""
    entropy = EntropyConfig(weight=0.02, weight_end_fraction=None, tolerance=0.0, initial_threshold=0.1, reduction=reduction)
    return updated(folder, entropy, per_device_train_batch_size=batch)


@pytest.mark.slow
def test_two_processes_give_the_update_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.huggingface.two_processes", "listing", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    together = load_file(tmp_path / "weights.safetensors")
    for name, parameter in updated_by(tmp_path, "listing", batch=8).items():
        torch.testing.assert_close(together[name], parameter, rtol=1e-5, atol=1e-6, msg=partial(prefixed, name))


def test_gradient_checkpointing_changes_no_update(tmp_path: Path) -> None:
    entropy = EntropyConfig(weight=0.02, weight_end_fraction=None, tolerance=0.05, initial_threshold=0.1)
    plain = updated(tmp_path, entropy, per_device_train_batch_size=8)
    checkpointed = updated(tmp_path, entropy, per_device_train_batch_size=8, activation_checkpointing=True)
    for name, parameter in plain.items():
        torch.testing.assert_close(checkpointed[name], parameter, rtol=1e-5, atol=1e-6)


def test_an_interrupted_run_goes_on_with_its_thresholds(tmp_path: Path) -> None:
    whole, first, second = (tiny("gpt_neox", spread=0.05) for _ in range(3))
    trainer(whole, tmp_path / "whole", max_steps=6).train()
    stopped = trainer(first, tmp_path / "parts", max_steps=6, save_strategy="steps", save_steps=3)
    stopped.add_callback(_StopAt(3))
    stopped.train()
    resumed = trainer(second, tmp_path / "parts", max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    assert bool((resumed.regulariser.threshold_LH != stopped.regulariser.threshold_LH).any())
    for (name, expected), parameter in zip(whole.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7, msg=partial(prefixed, name))


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_lambda_ends_where_it_should_and_evaluation_is_the_plain_loss(tmp_path: Path) -> None:
    model = tiny("llama", spread=0.05)
    run = trainer(model, tmp_path, EntropyConfig(weight=0.4, weight_end_fraction=0.5), max_steps=4)
    run.train()
    weights = [row["entropy_weight"] for row in run.state.log_history if "entropy_weight" in row]
    assert weights == pytest.approx([0.2, 0.0, 0.0, 0.0])  # of the update to come, when a step is logged
    tokens = torch.stack([row["input_ids"] for row in dataset(4)])
    loss = run.evaluate(dataset(4))["eval_loss"]
    logits, _ = eager(model.eval(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    assert loss == pytest.approx(float(functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).detach()), rel=1e-4)


@every_family
def test_autocast_trains_as_the_stock_trainer_does(family: str, tmp_path: Path) -> None:
    """Rotary positions make float32 of queries and keys under autocast, and leave the values in bfloat16."""

    def losses(run: Any) -> list[float]:
        run.train()
        return [row["loss"] for row in run.state.log_history if "loss" in row]

    without = EntropyConfig(weight=0.0, weight_end_fraction=None)
    ours = losses(trainer(tiny(family, spread=0.05), tmp_path / "ours", without, bf16=True))
    stock = tiny(family, spread=0.05)
    stock.set_attn_implementation("sdpa")
    theirs = losses(transformers.Trainer(stock, arguments(tmp_path / "theirs", bf16=True), train_dataset=dataset()))
    assert ours == pytest.approx(theirs, rel=5e-3)
    penalised = trainer(tiny(family, spread=0.05), tmp_path / "penalised", bf16=True)
    penalised.train()
    assert bool((penalised.regulariser.threshold_LH != 0.4).any())


def own_optimizer(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)


def test_thresholds_join_an_optimizer_that_was_passed_in(tmp_path: Path) -> None:
    model, reference = tiny("llama", spread=0.05), tiny("llama", spread=0.05)
    run = EntropyTrainer(
        model=model,
        args=arguments(tmp_path / "own"),
        train_dataset=dataset(),
        entropy=CONSTANT,
        context=CONTEXT,
        optimizers=(own_optimizer(model), None),
    )
    run.train()
    expected = trainer(reference, tmp_path / "built", learning_rate=1e-2)
    expected.train()
    torch.testing.assert_close(run.regulariser.threshold_LH, expected.regulariser.threshold_LH, rtol=1e-3, atol=1e-4)
    assert bool((run.regulariser.threshold_LH != 0.4).all())


def test_thresholds_join_an_optimizer_that_a_subclass_builds_without_them(tmp_path: Path) -> None:
    class HeadOnly(EntropyTrainer):
        def get_decay_parameter_names(self, model: Any) -> list[str]:
            return super().get_decay_parameter_names(model)

        @staticmethod
        def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> Any:
            return torch.optim.SGD, {"lr": 0.1, "params": [{"params": list(model.lm_head.parameters())}]}

    run = HeadOnly(model=tiny("llama"), args=arguments(tmp_path), train_dataset=dataset(), entropy=CONSTANT, context=CONTEXT)
    run.train()
    assert bool((run.regulariser.threshold_LH != 0.4).any())


def test_what_would_train_without_the_penalty_is_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    optimizer = own_optimizer(model)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match=r"optimizers=\(optimizer, None\)"):
        EntropyTrainer(model=model, args=arguments(tmp_path), train_dataset=dataset(), context=CONTEXT, optimizers=(optimizer, schedule))
    reentrant: dict[str, Any] = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match='"use_reentrant": False'):
        trainer(tiny("llama"), tmp_path, **reentrant).train()
    with pytest.raises(ValueError, match="no model_init"):
        EntropyTrainer(model_init=lambda: tiny("llama"), args=arguments(tmp_path), train_dataset=dataset(), context=CONTEXT)
    endless = tiny("llama")
    vars(endless.config)["max_position_embeddings"] = None  # past the check of types that some versions make
    with pytest.raises(ValueError, match="give EntropyTrainer a context"):
        EntropyTrainer(model=endless, args=arguments(tmp_path), train_dataset=dataset())


def test_a_second_trainer_of_the_same_model_counts_the_penalty_once(tmp_path: Path) -> None:
    once, twice = tiny("gpt2", spread=0.05), tiny("gpt2", spread=0.05)
    trainer(twice, tmp_path / "first")
    for model in (once, twice):
        trainer(model, tmp_path / "run", max_steps=1).train()
    for (name, expected), parameter in zip(once.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, msg=name)


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a model"):
        EntropyTrainer(args=arguments(tmp_path))
    plain = transformers.Trainer(tiny("gpt2"), arguments(tmp_path / "plain"), train_dataset=dataset())
    plain.save_model(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="holds no entropy thresholds"):
        trainer(tiny("gpt2"), tmp_path)._load_from_checkpoint(str(tmp_path / "plain"))
    trainer(tiny("gpt2", n_layer=2), tmp_path / "two").save_model(str(tmp_path / "two"))
    with pytest.raises(ValueError, match=r"shape \(2, 4\), but the model needs \(3, 4\)"):
        trainer(tiny("gpt2"), tmp_path)._load_thresholds(tmp_path / "two")
