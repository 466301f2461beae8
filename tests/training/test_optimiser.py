"""Weight decay reaches exactly the matrices, and the schedules have their stated values."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hushlm.architectures import REGISTRY, Architecture
from hushlm.config import EntropyConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.training import build_model, learning_rate, make_optimiser, optimiser_tensors, regulariser_weight, restore_optimiser
from hushlm.training.optimiser import Optimiser

SHAPE = ModelShape(layers=2, heads=2, width=8, context=16, vocabulary=11)


def optimiser_of(name: str, config: TrainingConfig = TrainingConfig()) -> Optimiser:
    # A removal of six FFNs needs six layers.
    shape = replace(SHAPE, layers=6 if "removed" in name else 2)
    model, regulariser = build_model(RunConfig(architecture=name, shape=shape))
    modules: dict[str, torch.nn.Module] = {"model": model}
    if regulariser is not None:
        modules["regulariser"] = regulariser
    return make_optimiser(modules, config)


def group_names(optimiser: Optimiser) -> tuple[set[str], set[str]]:
    decay, plain = optimiser.param_groups
    assert decay["weight_decay"] == TrainingConfig().weight_decay
    assert plain["weight_decay"] == 0
    return set(decay["param_names"]), set(plain["param_names"])


def test_groups_of_the_papers_final_system() -> None:
    decay, plain = group_names(optimiser_of("EReg(SM(t)+ScFuFFN)"))
    attention = [f"model.blocks.{i}.attention.{name}" for i in range(2) for name in ("query", "key", "value", "output")]
    ffn = [f"model.blocks.{i}.feed_forward" for i in range(2)]
    assert decay == {
        "model.embedding.weight",
        "model.positions.weight",
        *(f"{name}.weight" for name in attention),
        *(f"{name}.fused.weight" for name in ffn),
    }
    assert plain == {
        "regulariser.threshold_LH",
        *(f"model.blocks.{i}.attention.temperature" for i in range(2)),
        *(f"{name}.bias" for name in attention),
        *(f"{name}.{leaf}" for name in ffn for leaf in ("fused.bias", "alpha", "beta")),
    }


def test_norms_gains_do_not_decay() -> None:
    _, plain = group_names(optimiser_of("SM+LN+G"))
    assert {"model.final_norm.weight", "model.blocks.0.norm_attention.weight", "model.blocks.1.norm_feed_forward.bias"} <= plain
    decay, plain = group_names(optimiser_of("SM+WNorm(QKV+FFN)"))
    assert "model.blocks.0.attention.query.parametrizations.weight.original1" in decay
    assert "model.blocks.0.attention.query.parametrizations.weight.original0" in plain
    decay, _ = group_names(optimiser_of("SM+SNorm(QK)"))
    assert "model.blocks.0.attention.key.parametrizations.weight.original" in decay


MUON = TrainingConfig(optimiser="muon", learning_rate=0.5, weight_decay=0.1)


def test_muon_takes_the_blocks_matrices_and_leaves_the_rest_to_adamw() -> None:
    optimiser = optimiser_of("EReg(SM(t)+ScFuFFN)", MUON)
    adamw, muon = optimiser.parts
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(muon, torch.optim.Muon)
    linear = [f"attention.{name}" for name in ("query", "key", "value", "output")] + ["feed_forward.fused"]
    (group,) = muon.param_groups
    assert set(group["param_names"]) == {f"model.blocks.{i}.{name}.weight" for i in range(2) for name in linear}
    assert group["weight_decay"] == 0.1
    decay, plain = adamw.param_groups
    assert set(decay["param_names"]) == {"model.embedding.weight", "model.positions.weight"}
    assert set(plain["param_names"]) == group_names(optimiser_of("EReg(SM(t)+ScFuFFN)"))[1]
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.1, 0)
    names = optimiser_of("SM+WNorm(QKV+FFN)", MUON).parts[1].param_groups[0]["param_names"]
    assert "model.blocks.0.attention.query.parametrizations.weight.original1" in names
    assert not [name for name in names if name.endswith("original0")]
    names = optimiser_of("SM+SNorm(QK)", MUON).parts[1].param_groups[0]["param_names"]
    assert "model.blocks.1.attention.key.parametrizations.weight.original" in names
    assert "model.blocks.1.feed_forward.expand.weight" in names


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_muon_and_adamw_share_every_parameter_out(architecture: Architecture) -> None:
    every = [name for group in optimiser_of(str(architecture), MUON).param_groups for name in group["param_names"]]
    assert len(every) == len(set(every))
    assert set(every) == {name for group in optimiser_of(str(architecture)).param_groups for name in group["param_names"]}


def test_an_update_of_muon_has_the_size_of_adamws() -> None:
    """A first update of AdamW moves every number by the learning rate; Muon's by 0.2 of it, what AdamW's later ones come down to."""
    model, _ = build_model(RunConfig(architecture="SM+R", shape=replace(SHAPE, width=64)))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    make_optimiser({"model": model}, replace(MUON, weight_decay=0.0)).step()
    for name, parameter in model.named_parameters():
        moved = (parameter.detach() - before[name]).square().mean().sqrt().item()
        by_muon = name.startswith("blocks.") and parameter.ndim == 2
        assert moved == pytest.approx(0.2 * 0.5, rel=0.3) if by_muon else moved == pytest.approx(0.5, rel=1e-3), name


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_every_parameter_is_in_one_group(architecture: Architecture) -> None:
    decay, plain = group_names(optimiser_of(str(architecture)))
    assert not decay & plain
    layers = 6 if architecture.removed_ffns else 2
    model, _ = build_model(RunConfig(architecture=str(architecture), shape=replace(SHAPE, layers=layers)))
    expected = {f"model.{name}" for name, _ in model.named_parameters()}
    if architecture.entropy_regularised:
        expected.add("regulariser.threshold_LH")
    assert decay | plain == expected
    assert not [name for name in decay if any(word in name for word in ("bias", "temperature", "threshold", "alpha", "beta", "norm_"))]


@pytest.mark.parametrize("config", [MUON, replace(MUON, optimiser="adamw")], ids=lambda config: config.optimiser)
def test_decay_moves_only_matrices(config: TrainingConfig) -> None:
    """With zero gradients an update only decays: matrices shrink by 1 - lr * decay, the rest stays to the bit."""
    model, _ = build_model(RunConfig(architecture="SM(t)+ScFuFFN", shape=SHAPE))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimiser({"model": model}, config).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name.endswith("weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", [TrainingConfig(), MUON], ids=lambda config: config.optimiser)
def test_state_round_trip(config: TrainingConfig) -> None:
    model, _ = build_model(RunConfig(architecture="SM+R", shape=SHAPE))
    other, _ = build_model(RunConfig(architecture="SM+R", shape=SHAPE))
    first, second = make_optimiser({"model": model}, config), make_optimiser({"model": other}, config)

    def step(which: torch.nn.Module, optimiser: Optimiser, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in which.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()

    step(model, first, 0)
    restore_optimiser(second, {name: tensor.clone() for name, tensor in optimiser_tensors(first).items()})
    other.load_state_dict(model.state_dict())
    step(model, first, 1)
    step(other, second, 1)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert all(torch.equal(optimiser_tensors(second)[name], tensor) for name, tensor in optimiser_tensors(first).items())


def test_fsdp_does_not_go_with_muon() -> None:
    with pytest.raises(ValueError, match="Muon needs whole matrices"):
        TrainingConfig(optimiser="muon", parallel="fsdp")


@pytest.mark.parametrize("config", [TrainingConfig(), MUON], ids=lambda config: config.optimiser)
def test_foreign_state_is_refused(config: TrainingConfig) -> None:
    optimiser = optimiser_of("SM+R", config)
    with pytest.raises(ValueError, match="does not fit"):
        restore_optimiser(optimiser, {"exp_avg/model.nothing": torch.zeros(3)})
    with pytest.raises(ValueError, match="does not fit"):
        restore_optimiser(optimiser, {"exp_avg/model.embedding.weight": torch.zeros(3)})


def test_learning_rate_values() -> None:
    config = TrainingConfig(steps=101, warmup_steps=20, learning_rate=1.0, final_learning_rate_fraction=0.2)
    assert learning_rate(0, config) == pytest.approx(1 / 20)
    assert learning_rate(9, config) == pytest.approx(0.5)
    assert learning_rate(19, config) == 1.0
    assert learning_rate(20, config) == 1.0
    assert learning_rate(60, config) == pytest.approx(0.6)  # halfway down the cosine
    assert learning_rate(100, config) == pytest.approx(0.2)


@given(steps=st.integers(1, 300), warmup=st.integers(0, 400), fraction=st.floats(0, 1))
def test_learning_rate_rises_then_falls_within_bounds(steps: int, warmup: int, fraction: float) -> None:
    config = TrainingConfig(steps=steps, warmup_steps=warmup, learning_rate=2.0, final_learning_rate_fraction=fraction)
    rates = [learning_rate(step, config) for step in range(steps)]
    rise, fall = rates[:warmup], rates[warmup:]
    assert rise == sorted(rise)
    assert all(a >= b - 1e-12 for a, b in pairwise(fall))
    assert all(0 < rate <= 2.0 for rate in rise)
    assert all(2.0 * fraction - 1e-12 <= rate <= 2.0 for rate in fall)
    if len(fall) > 1:
        assert fall[0] == 2.0
        assert fall[-1] == pytest.approx(2.0 * fraction)


def test_regulariser_weight_values() -> None:
    config = EntropyConfig(weight=0.1, weight_end_fraction=0.5)
    assert regulariser_weight(0, 100, config) == 0.1
    assert regulariser_weight(25, 100, config) == pytest.approx(0.05)
    assert [regulariser_weight(step, 100, config) for step in (50, 75, 99)] == [0, 0, 0]
    constant = EntropyConfig(weight=0.1, weight_end_fraction=None)
    assert {regulariser_weight(step, 100, constant) for step in range(100)} == {0.1}
