"""A batch's loss, penalty and gradient do not depend on how it is split: over micro-batches here, over ranks in test_ranks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.training.ranks import gradients

from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.entropy import entropy_attention
from hushlm.training import load_checkpoint, train

Tiny = Callable[..., RunConfig]
PAPER = "EReg(SM(t)+ScFuFFN)"

POWER = "EReg(PS3(th,qk)+LN+B)"

ARCHITECTURES = [PAPER, "EReg(SM2(t)+R)", "SM+SNorm(QK+FFN)", "SM+LN+G", POWER]


def case(tiny: Tiny, architecture: str, reduction: str, **training: Any) -> RunConfig:
    """Six sequences, init wide enough for entropies to differ, some heads outside the margin."""
    entropy = {"reduction": reduction, "tolerance": 0.02, "initial_threshold": 0.6}
    if architecture == POWER:  # cold heads, whose scores are beyond what may be divided by
        entropy["initial_temperature"], training["score_penalty"] = 0.05, 0.5
    return tiny(architecture, training={"batch": 6, "init_std": 0.05, **training}, entropy=entropy)


def window() -> torch.Tensor:
    return torch.randint(0, 256, (6, 33), generator=torch.Generator().manual_seed(3))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To 1e-6 of the largest number of each tensor, or of the whole gradient: a gradient may be zero but for rounding."""
    assert found.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for name, tensor in expected.items() if "." in name)
    for name, tensor in expected.items():
        scale = max(tensor.abs().max().item(), largest if "." in name else 0.0)
        assert (found[name] - tensor).abs().max().item() <= 1e-6 * scale, name


@pytest.mark.parametrize("reduction", ["algorithm", "listing"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("training", [{"micro_batch": 1}, {"micro_batch": 4}, {"micro_batch": 2, "activation_checkpointing": True}])
def test_micro_batches(tiny: Tiny, architecture: str, reduction: str, training: dict[str, Any]) -> None:
    expected = gradients(case(tiny, architecture, reduction), window())
    if architecture.startswith("EReg"):
        assert expected["penalty"] > 0
        assert (expected["regulariser.threshold_LH"] != 0).any()
    assert_same(gradients(case(tiny, architecture, reduction, **training), window()), expected)


def test_the_naive_split_would_be_wrong(tiny: Tiny) -> None:
    """The mean of the parts' penalties is another number: what the test above guards against is there."""
    expected = gradients(case(tiny, PAPER, "algorithm"), window())
    parts = [gradients(case(tiny, PAPER, "algorithm", batch=1), part) for part in window().split(1)]
    mean = torch.stack([part["penalty"] for part in parts]).mean()
    assert (mean - expected["penalty"]).abs() > 1e-4 * expected["penalty"]


@pytest.mark.parametrize("architecture", [PAPER, "SM+SNorm(QK)"])
def test_recomputing_activations_changes_no_bit(tiny: Tiny, tiny_store: TokenStore, architecture: str) -> None:
    result = train(tiny(architecture), tiny_store)
    other = train(tiny(architecture, training={"activation_checkpointing": True}), tiny_store)
    assert other.metrics == result.metrics
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name
    assert all("forward" not in vars(block) for block in other.model.blocks)


def test_a_run_in_micro_batches_ends_where_the_whole_one_does(tiny: Tiny, tiny_store: TokenStore) -> None:
    whole = train(tiny(PAPER), tiny_store)
    parts = train(tiny(PAPER, training={"micro_batch": 3}), tiny_store)
    assert parts.evaluation.loss_nats == pytest.approx(whole.evaluation.loss_nats, abs=1e-5)
    for ours, theirs in zip(parts.metrics, whole.metrics, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["penalty"] == pytest.approx(theirs["penalty"], abs=1e-5)
        for row, expected in zip(ours["head_entropy_nats"], theirs["head_entropy_nats"], strict=True):
            assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kernel", ["analytic", "reference"])
def test_attention_stays_in_float32_under_autocast(kernel: str) -> None:
    q_BHTE, k_BHTE, v_BHTE = (10 * torch.randn(2, 2, 16, 8).bfloat16() for _ in range(3))
    expected = entropy_attention(q_BHTE, k_BHTE, v_BHTE, kernel=kernel)
    with torch.autocast("cpu", torch.bfloat16):
        found = entropy_attention(q_BHTE, k_BHTE, v_BHTE, kernel=kernel)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bf16_keeps_float32_weights_and_almost_the_loss(tiny: Tiny, tiny_store: TokenStore) -> None:
    settings = {"steps": 40, "learning_rate": 1e-2}
    full = train(tiny(PAPER, training=settings), tiny_store)
    half = train(tiny(PAPER, training={**settings, "precision": "bf16"}), tiny_store)
    assert half.metrics[0]["loss"] != full.metrics[0]["loss"]
    assert half.evaluation.loss_nats == pytest.approx(full.evaluation.loss_nats, abs=0.1)
    model = load_checkpoint(half.folder).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("architecture", [PAPER, POWER])
def test_compiled_gives_the_same_gradient(tiny: Tiny, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated ahead of time, without the minutes that compiling C++ takes."""
    expected = gradients(case(tiny, architecture, "algorithm"), window())
    calls = []
    compile_ = torch.compile

    def traced(module: torch.nn.Module) -> object:
        calls.append(module)
        return compile_(module, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    assert_same(gradients(case(tiny, architecture, "algorithm", compile=True), window()), expected)
    assert len(calls) == 1
