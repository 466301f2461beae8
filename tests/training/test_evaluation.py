"""Evaluation against its definition, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from hushlm.config import RunConfig
from hushlm.data import TokenStore, fixed_batches
from hushlm.training import build_model, evaluate


def test_against_one_window_at_a_time(tiny: Callable[..., RunConfig], tiny_store: TokenStore) -> None:
    model, _ = build_model(tiny("SM+LN+G"))
    tokens = tiny_store.tokens["validation"]
    evaluation = evaluate(model, tokens, batch=3, context=32, batches=4)
    losses, entropies = [], []
    for window in torch.cat(list(fixed_batches(tokens, 3, 32, 4))):
        output = model(window[None, :-1], with_entropy=True)
        log_probabilities = output.logits_BTV[0].detach().double().log_softmax(-1)
        losses += [-log_probabilities[i, window[i + 1]].item() for i in range(32)]
        entropies.append(output.entropy_nats_LBHT.detach().double().mean(dim=(1, 3)))
    assert evaluation.tokens == len(losses) == 12 * 32
    assert evaluation.loss_nats == pytest.approx(np.mean(losses), rel=1e-5)
    assert evaluation.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    torch.testing.assert_close(evaluation.head_entropy_nats_LH, torch.stack(entropies).mean(0), rtol=1e-5, atol=1e-6)


def test_a_shorter_last_batch_counts_by_its_tokens(tiny: Callable[..., RunConfig]) -> None:
    model, _ = build_model(tiny())
    tokens = np.random.default_rng(0).integers(0, 256, size=5 * 32 + 1).astype(np.uint16)
    one, other = evaluate(model, tokens, 4, 32, 10), evaluate(model, tokens, 5, 32, 10)
    assert one.tokens == other.tokens == 160
    assert one.loss_nats == pytest.approx(other.loss_nats, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(tiny: Callable[..., RunConfig], tiny_store: TokenStore, training: bool) -> None:
    """Spectral norm is the hard case: its buffers move at every forward pass in training mode."""
    model, _ = build_model(tiny("SM+SNorm(QK)"))
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, tiny_store.tokens["validation"], 4, 32, 2)
    assert model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_untrained_is_about_uniform_guessing(tiny: Callable[..., RunConfig], tiny_store: TokenStore) -> None:
    model, _ = build_model(tiny(training={"init_std": 1e-4}))
    evaluation = evaluate(model, tiny_store.tokens["validation"], 4, 32, 4)
    assert evaluation.loss_nats == pytest.approx(math.log(256), rel=1e-3)


def test_an_overflowing_perplexity_is_infinite(tiny: Callable[..., RunConfig], tiny_store: TokenStore) -> None:
    model, _ = build_model(tiny())
    with torch.no_grad():
        model.embedding.weight.mul_(1e3)
    evaluation = evaluate(model, tiny_store.tokens["validation"], 4, 32, 1)
    assert evaluation.loss_nats > 700
    assert evaluation.perplexity == math.inf


def test_split_too_short(tiny: Callable[..., RunConfig]) -> None:
    model, _ = build_model(tiny())
    with pytest.raises(ValueError, match="too few"):
        evaluate(model, np.zeros(20, dtype=np.uint16), 1, 32, 1)
