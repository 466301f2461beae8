"""The regulariser against the paper's algorithm and the authors' reading of it, written out in loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hushlm.entropy.regulariser import EntropyRegulariser

CONTEXT = 6


def algorithm_1(entropy: Tensor, theta: Tensor, gamma: float) -> float:
    L, B, H, T = entropy.shape
    e_max = math.log(CONTEXT)
    total = 0.0
    for layer in range(L):
        of_layer = 0.0
        for head in range(H):
            mean = sum(float(entropy[layer, b, head, i]) for b in range(B) for i in range(T)) / (B * T)
            delta = mean - float(theta[layer, head]) * e_max
            of_layer += delta**2 if abs(delta) > gamma * e_max else 0.0
        total += of_layer / H
    return total / L


def listing(entropy: Tensor, theta: Tensor, gamma: float) -> float:
    L, B, H, T = entropy.shape
    e_max = math.log(CONTEXT)
    total = 0.0
    for layer in range(L):
        of_layer = 0.0
        for head in range(H):
            for b in range(B):
                for i in range(T):
                    delta = float(entropy[layer, b, head, i]) - float(theta[layer, head]) * e_max
                    of_layer += delta**2 if abs(delta) > gamma * e_max else 0.0
        total += of_layer / H
    return total / L


READINGS = {"algorithm": algorithm_1, "listing": listing}


def make(reduction: str, seed: int, gamma: float = 0.2, theta: float = 0.5) -> tuple[EntropyRegulariser, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    regulariser = EntropyRegulariser(3, 2, CONTEXT, tolerance=gamma, initial_threshold=theta, reduction=reduction).double()  # type: ignore[arg-type]
    with torch.no_grad():
        regulariser.threshold_LH.add_(0.4 * torch.randn(3, 2, generator=generator, dtype=torch.float64))
    return regulariser, math.log(CONTEXT) * torch.rand(3, 4, 2, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("reduction", READINGS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3]))
def test_equals_the_algorithm_in_loops(reduction: str, seed: int, gamma: float) -> None:
    regulariser, entropy_nats = make(reduction, seed, gamma)
    expected = READINGS[reduction](entropy_nats, regulariser.threshold_LH.detach(), gamma)
    assert regulariser(entropy_nats).item() == pytest.approx(expected, rel=1e-9)


def test_the_readings_differ() -> None:
    (one, entropy_nats), (other, _) = make("algorithm", 0), make("listing", 0)
    assert one(entropy_nats).item() != pytest.approx(other(entropy_nats).item())


@pytest.mark.parametrize("reduction", READINGS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_nothing_is_paid_inside_the_margin(reduction: str, seed: int) -> None:
    regulariser, _ = make(reduction, seed)
    noise = 2 * torch.rand(3, 4, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    target = regulariser.threshold_LH.detach()[:, None, :, None]
    inside = (target + 0.199 * noise) * math.log(CONTEXT)
    penalty = regulariser(inside)
    penalty.backward()
    assert penalty.item() == 0
    assert regulariser.threshold_LH.grad is not None
    assert float(regulariser.threshold_LH.grad.abs().max()) == 0
    assert regulariser((target + 0.201).expand_as(noise) * math.log(CONTEXT)).item() > 0


@pytest.mark.parametrize("reduction", READINGS)
def test_gradient_reaches_entropies_and_thresholds(reduction: str) -> None:
    regulariser, entropy_nats = make(reduction, 1, gamma=0.05)
    assert torch.autograd.gradcheck(
        lambda e, theta: torch.func.functional_call(regulariser, {"threshold_LH": theta}, (e,)),
        (entropy_nats.requires_grad_(), regulariser.threshold_LH),
    )
    regulariser(entropy_nats).backward()
    assert entropy_nats.grad is not None
    assert float(entropy_nats.grad.abs().max()) > 0


def test_sum_over_batch_and_positions_is_what_ties_the_weight_to_the_batch() -> None:
    for reduction, factor in (("algorithm", 1), ("listing", 2)):
        regulariser, entropy_nats = make(reduction, 2)
        twice = torch.cat((entropy_nats, entropy_nats), dim=1)
        torch.testing.assert_close(regulariser(twice), factor * regulariser(entropy_nats))


def test_one_threshold_for_each_layer_and_head() -> None:
    regulariser = EntropyRegulariser(12, 4, 128, tolerance=0.2, initial_threshold=0.3, reduction="algorithm")
    assert [(name, tuple(p.shape)) for name, p in regulariser.named_parameters()] == [("threshold_LH", (12, 4))]
    assert bool((regulariser.threshold_LH == torch.tensor(0.3)).all())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tolerance": -0.1}, "tolerance"),
        ({"reduction": "mean"}, "reduction"),
        ({"context": 1}, "context"),
        ({"layers": 0}, "layer"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, sentence: str) -> None:
    good = {"layers": 2, "heads": 2, "context": 8, "tolerance": 0.2, "initial_threshold": 0.5, "reduction": "algorithm"}
    with pytest.raises(ValueError, match=sentence):
        EntropyRegulariser(**(good | arguments))


def test_entropies_of_another_model_are_refused() -> None:
    regulariser, entropy_nats = make("algorithm", 0)
    with pytest.raises(ValueError, match="shape"):
        regulariser(entropy_nats.transpose(1, 2))
