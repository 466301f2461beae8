"""Ranges and verdicts on head entropies."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.entropy.attention import entropy_attention
from hushlm.entropy.diagnostics import attainable_maximum_nats, silent_layers, summarise

T = 128
LOG_T = math.log(T)


@given(T=st.integers(1, 2000))
def test_attainable_maximum_is_the_mean_of_the_row_ceilings(T: int) -> None:
    assert attainable_maximum_nats(T) == pytest.approx(sum(math.log(i + 1) for i in range(T)) / T, abs=1e-9)


def test_uniform_attention_attains_the_maximum() -> None:
    q = torch.zeros(1, 1, T, 2, dtype=torch.float64)
    _, entropy_nats = entropy_attention(q, q, q)
    assert float(entropy_nats.mean()) == pytest.approx(attainable_maximum_nats(T))
    assert attainable_maximum_nats(T) / LOG_T == pytest.approx(0.80, abs=0.005)


def test_ranges_are_half_open_quarters_of_the_largest_entropy() -> None:
    report = summarise([[0.0, 0.99, 1.0, 1.99], [2.0, 2.99, 3.0, 4.0]], T)
    assert report.maximum_nats == 4
    assert report.share_per_range == (0.25, 0.25, 0.25, 0.25)
    assert report.head_entropy_nats_LH == ((0.0, 0.99, 1.0, 1.99), (2.0, 2.99, 3.0, 4.0))
    quarter = LOG_T / 4
    report = summarise([[0.5 * quarter, 1.5 * quarter], [1.6 * quarter, 1.7 * quarter]], T)
    assert report.share_per_range_of_log_context == (0.25, 0.75, 0.0, 0.0)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(0, LOG_T), min_size=3, max_size=3), min_size=1, max_size=12))
def test_each_head_is_counted_once(entropies: list[list[float]]) -> None:
    report = summarise(entropies, T)
    assert sum(report.share_per_range) == pytest.approx(1)
    assert sum(report.share_per_range_of_log_context) == pytest.approx(1)
    assert report.maximum_nats == 0 or report.share_per_range[3] > 0
    assert not report.overload or report.overloaded_layers
    assert not report.collapse or report.collapsed_layers
    assert set(report.overloaded_layers) <= set(range((len(entropies) + 1) // 2))
    assert len(entropies) == 1 or set(report.collapsed_layers) <= set(range((len(entropies) + 1) // 2, len(entropies)))
    assert json.loads(json.dumps(report.to_dict()))["maximum_nats"] == report.maximum_nats


def model(*layer_shares: float) -> torch.Tensor:
    """Four heads a layer near the given share of log T."""
    return torch.tensor([[share * LOG_T * f for f in (1.0, 0.99, 0.98, 0.97)] for share in layer_shares])


def test_a_healthy_model_gets_no_verdict() -> None:
    report = summarise(model(0.65, 0.6, 0.55, 0.5, 0.4, 0.3), T)
    assert not report.overload
    assert not report.collapse
    assert report.overloaded_layers == report.collapsed_layers == ()


def test_near_uniform_early_layers_are_overload() -> None:
    report = summarise(model(0.79, 0.79, 0.5, 0.5, 0.4, 0.3), T)
    assert report.overload
    assert report.overloaded_layers == (0, 1)
    assert not report.collapse


def test_near_uniform_deep_layers_are_not_overload() -> None:
    assert not summarise(model(0.5, 0.5, 0.5, 0.5, 0.79, 0.79), T).overload


def test_top_range_of_a_focused_model_is_not_overload() -> None:
    report = summarise(model(0.3, 0.3, 0.3, 0.3), T)
    assert report.share_per_range[3] == 1
    assert not report.overload


def test_the_layers_measured_before_a_divergence_are_collapse() -> None:
    """Layer means, as shares of log T, of a softmax-only model of 12 layers just before its loss became NaN."""
    entropies = model(0.79, 0.79, 0.76, 0.16, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    report = summarise(entropies, T)
    assert report.collapse
    assert report.collapsed_layers == (6, 7, 8, 9, 10, 11)
    assert report.overload
    assert silent_layers(entropies, T) == (5, 6, 7, 8, 9, 10, 11)


def test_low_but_living_heads_are_not_collapse() -> None:
    report = summarise(model(0.5, 0.5, 0.1, 0.08), T)
    assert report.share_per_range[0] == 0.5
    assert not report.collapse


def test_one_living_head_keeps_a_layer_from_being_silent() -> None:
    assert silent_layers([[0.0, 0.0], [0.0, 1.0], [0.0, float("nan")]], T) == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, LOG_T + 1])
def test_impossible_entropies_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="diverged"):
        summarise([[1.0, bad]], T)


@pytest.mark.parametrize(("table", "context"), [([1.0, 2.0], T), ([[]], T), ([[0.0]], 1)])
def test_a_wrong_table_is_refused(table: list, context: int) -> None:
    with pytest.raises(ValueError, match="table"):
        summarise(table, context)
    with pytest.raises(ValueError, match="table"):
        silent_layers(table, context)
