"""Choosing among what was revealed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import StepTraffic, TokenAnswer, traffic_by

LOGITS = RevealPolicy(kind="logits")


def answer(logits: list[float] | None = None, top: list[tuple[int, float]] | None = None) -> TokenAnswer:
    return TokenAnswer(None, top, None if logits is None else np.array(logits), Traffic())


def test_zero_temperature_is_greedy() -> None:
    assert Sampling().chooser(LOGITS)(answer([0.0, 3.0, 2.0])) == 1
    assert Sampling().chooser(RevealPolicy.parse("topk:2"))(answer(top=[(7, 1.5), (3, 1.0)])) == 7


def test_draws_follow_the_softmax() -> None:
    logits, temperature = [0.0, 1.0, 2.0], 0.7
    choose = Sampling(temperature=temperature, seed=3).chooser(LOGITS)
    drawn = np.bincount([choose(answer(logits)) for _ in range(20_000)], minlength=3) / 20_000
    wanted = np.exp(np.array(logits) / temperature)
    np.testing.assert_allclose(drawn, wanted / wanted.sum(), atol=0.01)


def test_top_k_draws_only_from_the_top() -> None:
    choose = Sampling(temperature=5.0).chooser(RevealPolicy.parse("topk:2"))
    assert {choose(answer(top=[(40, 1.0), (2, 0.5)])) for _ in range(200)} == {40, 2}


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=12), st.floats(0.01, 1), st.integers(0, 1000))
def test_a_nucleus_is_the_fewest_that_reach_its_probability(logits: list[float], top_p: float, seed: int) -> None:
    probabilities = np.exp(logits) / np.exp(logits).sum()
    token = Sampling(temperature=1.0, top_p=top_p, seed=seed).chooser(LOGITS)(answer(logits))
    # Whatever is strictly likelier than the drawn token does not reach top_p without it.
    assert probabilities[probabilities > probabilities[token] * (1 + 1e-9)].sum() < top_p + 1e-9


def test_draws_from_a_nucleus_keep_their_proportions() -> None:
    choose = Sampling(temperature=1.0, top_p=0.75, seed=5).chooser(LOGITS)
    drawn = np.bincount([choose(answer(list(np.log([0.5, 0.1, 0.3, 0.1])))) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(drawn, [0.625, 0, 0.375, 0], atol=0.015)


def test_the_same_seed_draws_the_same() -> None:
    draws = [[Sampling(temperature=1.0, seed=seed).chooser(LOGITS)(answer([0.0] * 1000)) for _ in range(1)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_token_alone_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="--reveal"):
        Sampling(temperature=1.0).chooser(RevealPolicy())


def test_negative_temperatures_are_refused() -> None:
    with pytest.raises(ValidationError):
        Sampling(temperature=-1.0)


def test_traffic_is_summed_by_operation_and_by_layer() -> None:
    steps = tuple(
        StepTraffic(name, layer, Traffic(sent_bytes=size)) for name, layer, size in [("head", None, 1), ("mix", 0, 10), ("mix", 1, 100)]
    )
    answers = [TokenAnswer(1, None, None, Traffic(), steps)] * 2
    by_name = traffic_by(answers, lambda step: step.name)
    assert {name: moved.sent_bytes for name, moved in by_name.items()} == {"head": 2, "mix": 220}
    by_layer = traffic_by(answers, lambda step: str(step.layer))
    assert {name: moved.sent_bytes for name, moved in by_layer.items()} == {"None": 2, "0": 20, "1": 200}
