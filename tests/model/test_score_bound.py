"""The limit that a power kernel's scores should keep to, and the penalty beyond it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hushlm.architectures import LARGEST_MEAN_WEIGHT
from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.model import LanguageModel
from hushlm.model.score_bound import MARGIN, score_excess, score_limit
from hushlm.plan.attention_operations import LARGEST_POWER_SUM, POWER_SUM
from hushlm.training import train
from hushlm.training.checkpoint import build_model

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_limit_is_a_weight_that_a_private_program_divides_by(order: int) -> None:
    weight = (1 + score_limit(order) / 2**order) ** (2**order)
    assert weight == pytest.approx(MARGIN * LARGEST_MEAN_WEIGHT)
    assert POWER_SUM * LARGEST_MEAN_WEIGHT == LARGEST_POWER_SUM


@given(seed=st.integers(0, 1000), order=st.integers(1, 3), size=st.floats(0.1, 20), per_head=st.booleans())
def test_without_excess_no_score_is_beyond(seed: int, order: int, size: float, per_head: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(2, 3, 5, 4, generator=draw) for _ in range(2))
    temperature = 0.1 + torch.rand(3, generator=draw) if per_head else None
    excess = score_excess(order, q, k, temperature)
    scores = q @ k.mT / 2
    if temperature is not None:
        scores = scores / temperature[:, None, None]
    if excess == 0:
        assert scores.abs().max() <= score_limit(order) * (1 + 1e-5)
    if scores.abs().max() > score_limit(order) * (1 + 1e-5):
        assert excess > 0


def test_it_is_what_its_formula_says() -> None:
    q, k = torch.full((1, 1, 1, 4), 3.0), torch.zeros(1, 1, 2, 4)
    bound = score_limit(3) * 2
    k[0, 0, 1, 0] = (3 * bound) ** 0.5  # one of two keys at three times the bound, the query at 36
    expected = max(0.0, 36 / bound - 1) ** 2 + (3 - 1) ** 2 / 2
    assert score_excess(3, q, k, None).item() == pytest.approx(expected, rel=1e-5)
    # A temperature of a half halves the room, whether it is one number a head or the smallest of several positions.
    halved = score_excess(3, q, k, torch.tensor([0.5])).item()
    assert halved == pytest.approx(max(0.0, 36 / (bound / 2) - 1) ** 2 + (6 - 1) ** 2 / 2, rel=1e-5)
    assert score_excess(3, q, k, torch.tensor([[0.5, 2.0]])).item() == pytest.approx(halved)


def test_only_power_kernels_in_training_have_it(tiny: Tiny) -> None:
    tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    for architecture, has in (("PS3(th,qk)+LN+B", True), ("SM2+R", False)):
        model, _ = build_model(tiny(architecture))
        assert (model.train()(tokens).score_excess is not None) is has
        copy.deepcopy(model)  # nothing of a graph is left in it
        assert model.eval()(tokens).score_excess is None


def largest_norm(model: LanguageModel, tokens: torch.Tensor) -> float:
    """The largest |q|^2 or |k|^2 of any head over what may be."""
    found: list[float] = []

    def see(q: torch.Tensor, k: torch.Tensor, temperature: torch.Tensor | None) -> None:
        limit = score_limit(3) * q.shape[-1] ** 0.5 * (1 if temperature is None else temperature[:, None])
        found.extend((x.square().sum(-1) / limit).max().item() for x in (q, k))

    for block in model.blocks:
        block.attention.observer = see  # type: ignore[union-attr]
    with torch.no_grad():
        model.eval()(tokens)
    return max(found)


def test_training_with_the_penalty_brings_scores_back(tiny: Tiny, tiny_store: TokenStore) -> None:
    """From queries and keys far beyond what can be divided by."""
    wild = {"steps": 30, "init_std": 0.02, "learning_rate": 0.02}
    entropy = {"initial_temperature": 0.05}
    tokens = torch.from_numpy(tiny_store.tokens["validation"][:64].astype("int64"))[None, :32]
    without, bounded = (
        largest_norm(train(tiny("PS3(th,qk)+LN+Q", training={**wild, "score_penalty": weight}, entropy=entropy), tiny_store).model, tokens)
        for weight in (0.0, 10.0)
    )
    assert bounded < 1.5 < without
