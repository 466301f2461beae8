"""Power kernels in a model: query-key normalisation by weights alone, and the watch on scores where weights grow again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import ModelShape, RunConfig
from hushlm.data import TokenStore
from hushlm.model import LanguageModel
from hushlm.model.score_watch import watch_scores
from hushlm.model.self_attention import Attention
from hushlm.training import evaluate, train

SHAPE = ModelShape(layers=2, heads=2, width=16, context=12, vocabulary=23)


def drawn(name: str, spread: float = 0.3) -> LanguageModel:
    """Far from initialisation, biases included."""
    model = LanguageModel(parse(name), SHAPE, initial_temperature=0.7).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


@pytest.mark.parametrize("name", ["PS3(th,qk)+LN+Q", "Llama(SM(qk)+RMS+B)"])
def test_queries_and_keys_of_every_head_have_unit_mean_square_over_inputs_of_unit_variance(name: str) -> None:
    model, state = drawn(name), drawn(name).plain_state()
    n_ND = torch.randn(200_000, SHAPE.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for part in ("query", "key"):
        linear: Any = model.get_submodule(f"blocks.1.attention.{part}")
        plain = n_ND @ state[f"blocks.1.attention.{part}.weight"].T + state.get(f"blocks.1.attention.{part}.bias", 0)
        mean_square_H = plain.unflatten(-1, (SHAPE.heads, -1)).square().mean((0, 2))
        torch.testing.assert_close(mean_square_H, torch.ones(SHAPE.heads, dtype=torch.float64), rtol=0.02, atol=0)
        assert not np.allclose(linear(n_ND).square().mean().item(), 1, rtol=0.1), "it is the gain that does it"


def test_the_size_of_a_heads_maps_does_not_matter() -> None:
    model, tokens = drawn("PS2(qk)+LN+Q"), torch.arange(12)[None]
    before = model(tokens).logits_BTV
    with torch.no_grad():
        for part in ("query", "key"):
            linear: Any = model.get_submodule(f"blocks.0.attention.{part}")
            linear.weight[:8] *= 3.7
            linear.bias[:8] *= 3.7
    torch.testing.assert_close(model(tokens).logits_BTV, before, rtol=0, atol=1e-12)


Seen = dict[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]]


def _keep(seen: Seen, layer: int, q_BHTE: torch.Tensor, k_BHSE: torch.Tensor, temperature: torch.Tensor | None) -> None:
    seen.setdefault(layer, []).append((q_BHTE, k_BHSE, temperature))


@torch.no_grad()
@pytest.mark.parametrize("name", ["PS1(th)+LN+Q", "PS2(t,qk)+LN+R", "NeoX(PS1+R)"])
def test_shares_of_low_scores_are_those_counted_by_hand(name: str) -> None:
    model, tokens_BT = drawn(name, spread=1.0), torch.arange(24).reshape(2, 12) % 23
    seen: Seen = {}
    with watch_scores(model) as watch:
        watched = model(tokens_BT).logits_BTV
    beyond_LH, all_LH = watch.counts_2LH
    torch.testing.assert_close(model(tokens_BT).logits_BTV, watched, rtol=0, atol=0)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    assert all(attention.observer is None for attention in attentions)
    for layer, attention in enumerate(attentions):
        attention.observer = partial(_keep, seen, layer)
    model(tokens_BT)
    for layer, ((q, k, t),) in seen.items():
        lowest = -(2.0 ** (attentions[layer].order or 0))
        for head in range(SHAPE.heads):
            found = 0
            for text in range(2):
                for i in range(12):
                    at = 1.0 if t is None else float(t[head] if t.ndim == 1 else t[head, i])
                    found += sum(float(q[text, head, i] @ k[text, head, j]) / at / math.sqrt(8) < lowest for j in range(i + 1))
            assert beyond_LH[layer, head] == found
            assert all_LH[layer, head] == 2 * 12 * 13 / 2
    assert beyond_LH.sum() > 0, "such large weights have some"


def test_an_evaluation_has_the_shares_of_power_kernels_alone() -> None:
    tokens = (np.arange(500) % 23).astype(np.uint16)
    power = evaluate(drawn("PS1+R", spread=1.0).float(), tokens, 2, 12, 3)
    assert power.share_beyond_LH is not None
    assert power.share_beyond_LH.shape == (2, 2)
    assert 0 < float(power.share_beyond_LH.mean()) < 1
    assert evaluate(drawn("SM1+R").float(), tokens, 2, 12, 3).share_beyond_LH is None


def test_the_entropy_report_says_them(tiny: Callable[..., RunConfig], tiny_store: TokenStore, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(tiny("PS1+R", training={"steps": 2, "evaluate_every": 2, "evaluation_batches": 1}), tiny_store)
    assert main(["entropy", str(result.folder), "--batches", "1", "--json"]) == 0
    shares_LH = json.loads(capsys.readouterr().out)["head_share_beyond"]
    shape = result.model.shape
    assert np.shape(shares_LH) == np.shape(result.metrics[-1]["head_share_beyond"]) == (shape.layers, shape.heads)
    assert main(["entropy", str(result.folder), "--batches", "1"]) == 0
    assert "Scores so low that the power kernel's weights grow again: " in capsys.readouterr().out
