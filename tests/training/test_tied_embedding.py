"""A tied table's gradient in training is torch's own, bit for bit, without a table for the lookup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.training import team as teams
from hushlm.training import train
from hushlm.training.tied_embedding import look_up

Tiny = Callable[..., RunConfig]
CASES = [
    ("SM+LN+G", {}),
    ("EReg(SM(t)+ScFuFFN)", {"micro_batch": 2}),
    ("SM+LN+G", {"activation_checkpointing": True}),
    ("SM+LN+G", {"precision": "bf16"}),
]


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3), min_size=1, max_size=5))
def test_gradient_is_the_dense_one_to_the_bit(tokens: list[list[int]]) -> None:
    table = nn.Embedding(9, 4)
    tokens_BT = torch.tensor(tokens)
    found = []
    for lookup in (lambda: look_up(table, tokens_BT), lambda: table(tokens_BT)):
        logits_BTV = torch.tanh(lookup()) @ table.weight.T
        (gradient,) = torch.autograd.grad((logits_BTV * logits_BTV).sum(), table.weight)
        assert gradient.layout is torch.strided
        found.append(gradient)
    assert torch.equal(*found)


def test_lookup_allocates_the_batchs_rows_only() -> None:
    table = nn.Embedding(1000, 4)
    (gradient,) = torch.autograd.grad(look_up(table, torch.tensor([[7, 7, 3]])).sum(), table.weight)
    assert gradient.layout is torch.sparse_coo
    assert gradient._values().tolist() == [[1.0] * 4, [2.0] * 4]
    with torch.no_grad():
        assert not look_up(table, torch.tensor([[7]])).requires_grad


@pytest.mark.parametrize(("architecture", "training"), CASES)
def test_a_run_ends_with_the_bytes_of_torchs_lookup(
    tiny: Tiny, tiny_store: TokenStore, architecture: str, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(embedding: nn.Embedding, tokens_BT: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return look_up(embedding, tokens_BT)

    monkeypatch.setattr(teams, "look_up", counted)
    ours = train(tiny(architecture, training=training), tiny_store)
    assert calls
    assert "forward" not in vars(ours.model.embedding)
    monkeypatch.setattr(teams, "look_up", lambda embedding, tokens_BT: nn.functional.embedding(tokens_BT, embedding.weight))
    torchs = train(tiny(architecture, training=training), tiny_store)
    assert ours.metrics == torchs.metrics
    for name, tensor in torchs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_an_untied_head_keeps_torchs_lookup(tiny: Tiny, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table has no dense gradient to be added to."""
    monkeypatch.setattr(teams, "look_up", None)
    train(tiny("SM+LN+G", shape={"tied_head": False}), tiny_store)
