"""Attention with row entropies: against formulas in float64, finite differences, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hushlm.entropy.attention import entropy_attention
from hushlm.entropy.kernels import KERNELS, analytic

ORDERS = (None, 1, 2, 3)
PLAIN = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
NAMES = [kernel.name for kernel in KERNELS if kernel.supports(PLAIN, None)]
"""Kernels that take float64, which these tests mostly use; `test_native.py` has the compiled one in float32."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "BLOCK_ROWS", 3)  # so that small inputs still cross block borders


def inputs(seed: int, T: int = 5, S: int = 5, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    B, H, E = 2, 3, 4
    q, k, v = (torch.randn(B, H, n, E, generator=generator, dtype=torch.float64) * scale for n in (T, S, S))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def probabilities(q: Tensor, k: Tensor, order: int | None, temperature: float = 1.0) -> Tensor:
    """Row by row and key by key, in Python floats: nothing shared with the code under test."""
    B, H, T, E = q.shape
    S = k.shape[2]
    p = torch.zeros(B, H, T, S, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                scores = [float(q[b, h, i].double() @ k[b, h, j].double()) / (temperature * math.sqrt(E)) for j in range(i + S - T + 1)]
                top = max(scores)
                if order is None:
                    weights = [math.exp(s - top) for s in scores]
                else:
                    weights = [max(0.0, 1 + (s - top) / 2**order) ** (2**order) for s in scores]
                p[b, h, i, : len(weights)] = torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)
    return p


def entropy(p: Tensor) -> Tensor:
    return -torch.where(p > 0, p * torch.where(p > 0, p, 1).log(), 0).sum(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize(("T", "S"), [(7, 7), (2, 7), (1, 1)])
def test_output_and_entropy_equal_the_definition(
    name: str, order: int | None, dtype: torch.dtype, tolerance: float, T: int, S: int
) -> None:
    q, k, v = inputs(0, T, S, scale=2.0, dtype=dtype)
    output, entropy_nats = entropy_attention(q, k, v, order=order, temperature=torch.full((3,), 0.7, dtype=dtype), kernel=name)
    p = probabilities(q, k, order, temperature=0.7)
    torch.testing.assert_close(entropy_nats.double(), entropy(p), rtol=0, atol=tolerance)
    torch.testing.assert_close(output.double(), p @ v.double(), rtol=0, atol=8 * tolerance)


@pytest.mark.parametrize("order", ORDERS)
def test_bfloat16_is_computed_in_float32(order: int | None) -> None:
    q, k, v = inputs(1, T=9, S=9, scale=5.0, dtype=torch.bfloat16)
    output, entropy_nats = entropy_attention(q, k, v, order=order)
    p = probabilities(q, k, order)
    assert output.dtype is torch.bfloat16
    assert entropy_nats.dtype is torch.float32
    torch.testing.assert_close(entropy_nats.double(), entropy(p), rtol=0, atol=2e-5)
    torch.testing.assert_close(output.double(), p @ v.double(), rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("per_position", [True, False])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (4, 7)])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_output_and_entropy_together(order: int | None, T: int, S: int, per_position: bool, causal: bool) -> None:
    q, k, v = (x.requires_grad_() for x in inputs(2, T, S))
    temperature = torch.rand((3, T) if per_position else (3,), generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5

    def run(q: Tensor, k: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return entropy_attention(q, k, v, temperature=t, order=order, causal=causal)

    assert torch.autograd.gradcheck(run, (q, k, v, temperature.requires_grad_()))


@pytest.mark.parametrize("which", ["output", "entropy", "both"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_kernels_have_the_reference_gradients(order: int | None, which: str, scale: float) -> None:
    """Each output alone and both, also where most probabilities underflow or leave the support."""
    results = {}
    for name in NAMES:
        q, k, v = (x.requires_grad_() for x in inputs(4, T=10, S=12, scale=scale))
        output, entropy_nats = entropy_attention(q, k, v, order=order, kernel=name)
        weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
        losses = {"output": (weights * output).sum(), "entropy": (weights[..., 0] * entropy_nats).sum()}
        loss = losses[which] if which in losses else losses["output"] + losses["entropy"]
        results[name] = torch.autograd.grad(loss, (q, k, v), materialize_grads=True)
    for name in NAMES:
        for gradient, expected in zip(results[name], results["reference"], strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_tied_maxima_share_the_gradient_as_amax_does(order: int) -> None:
    gradients = []
    for name in NAMES:
        q, k, v = inputs(5, T=1, S=4)
        k[:, :, 1] = k[:, :, 0]
        q = 3 * k[:, :, :1]  # so that keys 0 and 1 tie; whether at the top depends on the head
        k.requires_grad_()
        output, entropy_nats = entropy_attention(q, k, v, order=order, kernel=name)
        (gradient,) = torch.autograd.grad(output.sum() + entropy_nats.sum(), k)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", NAMES)
def test_gradient_flows_through_the_row_maximum(name: str) -> None:
    """Moving every score of a row together changes nothing, so the gradient must be orthogonal to that move."""
    q, k, v = inputs(6)
    k.requires_grad_()
    output, entropy_nats = entropy_attention(q, k, v, order=2, kernel=name)
    (gradient,) = torch.autograd.grad((output.square().sum(-1) + entropy_nats)[0, 0, -1], k)
    assert gradient.abs().max() > 1e-3
    assert abs(float((gradient[0, 0] @ q[0, 0, -1]).sum())) < 1e-12


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    T=st.integers(1, 9),
    past=st.integers(0, 4),
    scale=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e3]),
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    name=st.sampled_from(NAMES),
)
def test_entropy_lies_between_zero_and_the_log_of_the_allowed_keys(
    seed: int, T: int, past: int, scale: float, order: int | None, dtype: torch.dtype, name: str
) -> None:
    q, k, v = inputs(seed, T, T + past, scale, dtype)
    output, entropy_nats = entropy_attention(q, k, v, order=order, kernel=name)
    ceiling = torch.arange(past + 1, past + T + 1, dtype=torch.float64).log()
    slack = 1e-5 if dtype is torch.float32 else 1e-12
    assert bool((entropy_nats >= -slack).all())
    assert bool((entropy_nats <= ceiling + slack).all())
    assert bool((output.abs() <= v.abs().amax() + slack).all())


@pytest.mark.parametrize("order", ORDERS)
def test_uniform_attention_has_the_maximum_and_one_hot_none(order: int | None) -> None:
    q, k, v = inputs(7, T=6, S=6)
    _, uniform = entropy_attention(torch.zeros_like(q), k, v, order=order)
    torch.testing.assert_close(uniform[0, 0], torch.arange(1, 7, dtype=torch.float64).log())
    scores = torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4)
    output, one_hot = entropy_attention(1e4 * scores, scores, scores, order=order)
    torch.testing.assert_close(one_hot, torch.zeros_like(one_hot))
    torch.testing.assert_close(output, scores)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(0.05, 5), factor=st.floats(1, 20), order=st.sampled_from(ORDERS))
def test_higher_temperature_never_lowers_entropy(seed: int, low: float, factor: float, order: int | None) -> None:
    q, k, v = inputs(seed)
    cold, hot = (entropy_attention(q, k, v, temperature=torch.full((3,), t).double(), order=order)[1] for t in (low, low * factor))
    assert bool((hot >= cold - 1e-9).all())


def test_temperature_per_position_applies_to_its_own_row() -> None:
    q, k, v = inputs(8)
    temperature = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    _, entropy_nats = entropy_attention(q, k, v, temperature=temperature)
    for row in range(5):
        _, of_row = entropy_attention(q, k, v, temperature=temperature[:, row].contiguous())
        torch.testing.assert_close(entropy_nats[:, :, row], of_row[:, :, row])


def test_native_kernel_tends_to_softmax_as_its_order_grows() -> None:
    q, k, v = inputs(9, scale=1.5)
    exact = entropy_attention(q, k, v)
    errors = [
        max(float((a - b).abs().max()) for a, b in zip(entropy_attention(q, k, v, order=n), exact, strict=True)) for n in (1, 3, 6, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2


@pytest.mark.parametrize("order", ORDERS)
def test_queries_of_a_cache_equal_the_tail_of_the_full_computation(order: int | None) -> None:
    q, k, v = inputs(10, T=8, S=8)
    for full, tail in zip(entropy_attention(q, k, v, order=order), entropy_attention(q[:, :, 5:], k, v, order=order), strict=True):
        torch.testing.assert_close(tail, full[:, :, 5:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ORDERS)
def test_the_future_does_not_reach_the_past(order: int | None, name: str) -> None:
    q, k, v = inputs(11, T=8, S=8)
    before = entropy_attention(q, k, v, order=order, kernel=name)
    k[:, :, 5:], v[:, :, 5:] = 1e3, -1e3
    for old, new in zip(before, entropy_attention(q, k, v, order=order, kernel=name), strict=True):
        assert torch.equal(old[:, :, :5], new[:, :, :5])
        assert not torch.equal(old[:, :, 5:], new[:, :, 5:])


def test_large_scores_keep_the_entropy_exact_in_float32() -> None:
    q, k, v = inputs(12, T=16, S=16, scale=30.0, dtype=torch.float32)
    _, entropy_nats = entropy_attention(q, k, v)
    torch.testing.assert_close(entropy_nats.double(), entropy(probabilities(q, k, None)), rtol=0, atol=2e-3)
    assert bool(entropy_nats.isfinite().all())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k_BHSE": torch.zeros(2, 3, 5, 6)}, "shapes"),
        ({"v_BHSE": torch.zeros(2, 3, 4, 4)}, "shapes"),
        ({"k_BHSE": torch.zeros(2, 3, 5, 4).double()}, "floating-point type"),
        ({"k_BHSE": torch.zeros(2, 3, 4, 4), "v_BHSE": torch.zeros(2, 3, 4, 4)}, "at least as many keys"),
        ({"temperature": torch.ones(5)}, "temperature"),
        ({"order": 0}, "order"),
        ({"kernel": "none such"}, "No attention kernel"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_a_sentence(change: dict, sentence: str) -> None:
    arguments = {name: torch.zeros(2, 3, 5, 4) for name in ("q_BHTE", "k_BHSE", "v_BHSE")}
    with pytest.raises(ValueError, match=sentence):
        entropy_attention(**(arguments | change))
