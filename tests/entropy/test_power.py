"""The power kernel, without row maximum and clip: every implementation against the definition, its gradients, and its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.entropy.test_attention import entropy, inputs
from torch import Tensor

from hushlm.architectures import POWER_FLOOR
from hushlm.entropy.attention import entropy_attention
from hushlm.entropy.kernels import KERNELS, analytic

ORDERS = (1, 2, 3)
DTYPES = (torch.float32, torch.float64)
TAKERS = [
    (kernel.name, dtype) for kernel in KERNELS for dtype in DTYPES if kernel.supports(torch.zeros(1, 1, 1, 1, dtype=dtype), ORDERS[0])
]
"""Every implementation of this machine with the types that it takes."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "BLOCK_ROWS", 3)


def probabilities(q: Tensor, k: Tensor, order: int, temperature: float, causal: bool = True) -> Tensor:
    """Key by key, in Python floats: nothing shared with the code under test."""
    B, H, T, E = q.shape
    S = k.shape[2]
    p = torch.zeros(B, H, T, S, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                seen = i + S - T + 1 if causal else S
                scores = [float(q[b, h, i].double() @ k[b, h, j].double()) / (temperature * math.sqrt(E)) for j in range(seen)]
                weights = [(1 + s / 2**order) ** (2**order) + 2**-10 for s in scores]
                p[b, h, i, :seen] = torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)
    return p


@pytest.mark.parametrize(("name", "dtype"), TAKERS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(7, 7), (2, 7), (1, 1), (100, 130)])
def test_output_and_entropy_equal_the_definition(name: str, dtype: torch.dtype, order: int, causal: bool, T: int, S: int) -> None:
    q, k, v = inputs(0, T, S, scale=1.5, dtype=dtype)
    temperature = torch.full((3,), 0.7, dtype=dtype)
    output, entropy_nats = entropy_attention(q, k, v, order=order, power=True, temperature=temperature, causal=causal, kernel=name)
    p = probabilities(q, k, order, 0.7, causal)
    tolerance = 1e-11 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(entropy_nats.double(), entropy(p), rtol=0, atol=tolerance)
    torch.testing.assert_close(output.double(), p @ v.double(), rtol=0, atol=8 * tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (4, 7)])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_output_and_entropy_together(order: int, T: int, S: int, causal: bool) -> None:
    q, k, v = (x.requires_grad_() for x in inputs(2, T, S))
    temperature = (torch.rand((3, T), generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5).requires_grad_()

    def run(q: Tensor, k: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return entropy_attention(q, k, v, temperature=t, order=order, power=True, causal=causal)

    assert torch.autograd.gradcheck(run, (q, k, v, temperature))


@pytest.mark.parametrize("which", ["output", "entropy", "both"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "dtype"), TAKERS)
def test_implementations_have_the_reference_gradients(name: str, dtype: torch.dtype, order: int, which: str) -> None:
    found = {}
    for each, kind in ((name, dtype), ("reference", torch.float64)):
        q, k, v = (x.requires_grad_() for x in inputs(4, T=100, S=120, dtype=kind))
        output, entropy_nats = entropy_attention(q, k, v, order=order, power=True, kernel=each)
        weights = torch.linspace(-1, 2, output.numel(), dtype=kind).view_as(output)
        losses = {"output": (weights * output).sum(), "entropy": (weights[..., 0] * entropy_nats).sum()}
        loss = losses[which] if which in losses else losses["output"] + losses["entropy"]
        found[each, kind] = torch.autograd.grad(loss, (q, k, v), materialize_grads=True)
    tolerance = 1e-9 if dtype is torch.float64 else 2e-4
    for gradient, expected in zip(found[name, dtype], found["reference", torch.float64], strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    T=st.integers(1, 9),
    past=st.integers(0, 4),
    scale=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    order=st.sampled_from(ORDERS),
    taker=st.sampled_from(TAKERS),
)
def test_entropy_lies_between_zero_and_the_log_of_the_allowed_keys(
    seed: int, T: int, past: int, scale: float, order: int, taker: tuple[str, torch.dtype]
) -> None:
    name, dtype = taker
    q, k, v = inputs(seed, T, T + past, scale, dtype)
    output, entropy_nats = entropy_attention(q, k, v, order=order, power=True, kernel=name)
    ceiling = torch.arange(past + 1, past + T + 1, dtype=torch.float64).log()
    slack = 2e-5 if dtype is torch.float32 else 1e-12
    assert bool((entropy_nats >= -slack).all())
    assert bool((entropy_nats <= ceiling + slack).all())
    assert bool((output.abs() <= v.abs().amax() + slack).all())


@pytest.mark.parametrize(("name", "dtype"), TAKERS)
def test_scores_at_the_kernels_zero_attend_evenly(name: str, dtype: torch.dtype) -> None:
    """Where every weight is the floor alone, no sum vanishes: attention is uniform, and gradients are finite."""
    q = torch.full((1, 1, 4, 4), -2.0, dtype=dtype, requires_grad=True)
    k = torch.ones((1, 1, 4, 4), dtype=dtype)
    output, entropy_nats = entropy_attention(q, k, k, order=2, power=True, kernel=name)
    torch.testing.assert_close(entropy_nats[0, 0], torch.arange(1, 5, dtype=dtype).log())
    (gradient,) = torch.autograd.grad(entropy_nats.sum() + output.sum(), q)
    assert bool(gradient.isfinite().all())


def test_it_differs_from_the_kernel_with_a_maximum_and_needs_an_order() -> None:
    q, k, v = inputs(3)
    shifted, free = (entropy_attention(q, k, v, order=2, power=power)[1] for power in (False, True))
    assert float((shifted - free).abs().max()) > 0.01
    with pytest.raises(ValueError, match="needs an order"):
        entropy_attention(q, k, v, power=True)
    assert POWER_FLOOR == 2**-10
