"""Polynomials in place of the engine's built-ins: their functions in float64, and in the engine's fixed point within stated errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hushlm.architectures import GATE_QUADRATIC
from hushlm.model.feed_forward import smooth_relu as trained_smooth_relu
from hushlm.model.gate_curve import DEFAULT_CURVE, fit_gate_curve, quadratic_silu
from hushlm.plan import Activate, ActivatedGate, Divide, Gate, Kernel, Normalise
from hushlm.private.engine import Engine, EngineSettings, Party
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.polynomials import GELU_BOUND, SILU_BOUND, SILU_SCALE, gelu, quadratic_gate, reciprocal, silu, smooth_relu
from hushlm.private.program.steps import arithmetic

LAST_PLACE = 2.0**-18


def gpt2_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def in_fixed_point(build: Callable[[Any], Callable], *values: np.ndarray, squarings: int = 1) -> np.ndarray:
    """The program in the engine's arithmetic, in one process and in the clear."""
    pytest.importorskip("spu")
    backend = EngineBackend(Engine(Party.CLIENT, EngineSettings(squarings, simulate=True), None))
    names = [f"x{i}" for i in range(len(values))]
    for name, value in zip(names, values, strict=True):
        backend.put(name, Party.CLIENT, value.shape, value)
    backend.run("program", build, names, ("y",), ())
    found = backend.reveal("y", Party.CLIENT)[0]
    assert found is not None
    return found


@given(st.integers(1, 2000), st.integers(0, 99))
def test_reciprocal_is_within_nine_millionths(largest: int, seed: int) -> None:
    x = np.append(np.random.default_rng(seed).uniform(1, largest, 200), [1, largest])
    assert np.abs(reciprocal(np, x, largest) * x - 1).max() < 9e-6


@pytest.mark.parametrize("largest", [1, 2, 3, 12, 128, 512])
def test_reciprocal_in_fixed_point(largest: int) -> None:
    x = np.append(np.random.default_rng(0).uniform(1, largest, 2000), [1, largest])
    found = in_fixed_point(lambda xp: lambda x: reciprocal(xp, x, largest), x)
    # A few units in the last place of the polynomial's value, in [1/2, 1], and two more of the result.
    assert (np.abs(found - 1 / x) < (9e-6 + 12 * LAST_PLACE) / x + 2 * LAST_PLACE).all()


def test_sums_a_little_outside_their_range_do_no_harm() -> None:
    x = np.array([0.999, 0.9999, 128.05, 128.5])
    np.testing.assert_allclose(reciprocal(np, x, 128), 1 / x, rtol=2e-4)


def test_quartic_gelu_is_within_two_thousandths_everywhere() -> None:
    x = np.linspace(-60, 60, 400_001)
    found = gelu(np, x, True)
    assert np.abs(found - gpt2_gelu(x)).max() < 0.0021
    outside = np.abs(x) >= GELU_BOUND
    np.testing.assert_allclose(found[outside], np.maximum(x[outside], 0), atol=1e-6)
    assert np.abs(np.diff(found)).max() < 1.2 * (x[1] - x[0]), "a jump"


@pytest.mark.parametrize("built_in", [True, False])
def test_quartic_gelu_in_fixed_point(built_in: bool) -> None:
    x = np.linspace(-8, 8, 4001)
    found = in_fixed_point(lambda xp: arithmetic(Activate(1, len(x), "gelu-quartic", built_in), xp), x)
    assert np.abs(found - gelu(np, x, built_in)).max() < 30 * LAST_PLACE


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_the_polynomial_is_the_one_trained_in(values: list[float]) -> None:
    x = np.array(values)
    trained = trained_smooth_relu(torch.tensor(x, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(smooth_relu(np, x, True), trained, atol=1e-15)


@pytest.mark.parametrize("built_in", [True, False])
def test_the_polynomial_in_fixed_point(built_in: bool) -> None:
    x = np.linspace(-8, 8, 4001)
    found = in_fixed_point(lambda xp: arithmetic(Activate(1, len(x), "polynomial", built_in), xp), x)
    assert np.abs(found - smooth_relu(np, x, built_in)).max() < 4 * LAST_PLACE


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize(("kind", "formula"), [("square", lambda u: u * u), ("squared-relu", lambda u: np.where(u > 0, u * u, 0.0))])
def test_squares_in_fixed_point(kind: Any, formula: Callable[[np.ndarray], np.ndarray], built_in: bool) -> None:
    # Small numbers, and up to the largest whose squares the engine truncates right; rounded, so that nothing is lost on the way in.
    x = np.concatenate([np.round(np.linspace(-4, 4, 4001) / LAST_PLACE) * LAST_PLACE, [-8000.0, -500.0, 500.0, 8000.0]])
    np.testing.assert_array_equal(arithmetic(Activate(1, len(x), kind, built_in), np)(x), formula(x))
    found = in_fixed_point(lambda xp: arithmetic(Activate(1, len(x), kind, built_in), xp), x)
    # Answers are opened as float32.
    assert (np.abs(found - formula(x)) < 3 * LAST_PLACE + 1e-7 * formula(x)).all()


def test_a_gate_in_fixed_point() -> None:
    random = np.random.default_rng(4)
    a, b = (np.round(random.uniform(-30, 30, (7, 90)) / LAST_PLACE) * LAST_PLACE for _ in range(2))
    joined = np.concatenate([a, b], 1)
    np.testing.assert_array_equal(arithmetic(Gate(7, 90), np)(joined), a * b)
    found = in_fixed_point(lambda xp: arithmetic(Gate(7, 90), xp), joined)
    assert (np.abs(found - a * b) < 3 * LAST_PLACE + 1e-7 * np.abs(a * b)).all()


@pytest.mark.parametrize(("exponentials", "written_out"), [(1, 0), (1, 50), (2, 0), (2, 50), (1, 110)])
def test_kernels_in_fixed_point(exponentials: int, written_out: int) -> None:
    """However squarings are shared out between the engine's exponential and products: 110 scores of 2 heads, 10 rows and two squarings."""
    operation = Kernel(2, 10, 10, 2, True, True, written_out, exponentials)
    assert operation.elements == 110
    scores = 3 * np.random.default_rng(1).standard_normal((2, 10, 10))
    mask = np.tril(np.ones((10, 10)))
    wanted = arithmetic(operation, np)(scores, mask)[0]
    found = in_fixed_point(lambda xp: lambda s: arithmetic(operation, xp)(s, xp.asarray(mask))[0], scores, squarings=2 // exponentials)
    assert np.abs(found - wanted).max() < 20 * LAST_PLACE


@pytest.mark.parametrize("block", [0, 16])
def test_row_products_in_fixed_point(block: int) -> None:
    random = np.random.default_rng(2)
    x, sums = random.standard_normal((2, 20, 8)), random.uniform(1, 20, (2, 20))
    found = in_fixed_point(lambda xp: arithmetic(Divide(2, 20, 8, 20, True, block), xp), x, sums)
    assert np.abs(found - x / sums[..., None]).max() < 4e-5 * np.abs(x).max()
    normalise = Normalise(40, 8, False, block, block)
    rows = x.reshape(40, 8)
    found = in_fixed_point(lambda xp: arithmetic(normalise, xp), rows)
    # The engine's inverse root is a polynomial itself.
    assert np.abs(found - arithmetic(normalise, np)(rows)).max() < 0.01


def test_quartic_silu_is_within_eleven_thousandths_everywhere() -> None:
    g = np.linspace(-60, 60, 400_001)
    found = silu(np, SILU_SCALE * g, True) / SILU_SCALE
    assert np.abs(found - g / (1 + np.exp(-g))).max() < 0.0108
    outside = np.abs(SILU_SCALE * g) >= SILU_BOUND
    np.testing.assert_allclose(found[outside], np.maximum(g[outside], 0), atol=1e-6)
    assert np.abs(np.diff(found)).max() < 1.2 * (g[1] - g[0]), "a jump"


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=50), st.floats(0.25, 4), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_the_quadratic_gate_is_the_models(values: list[float], scale: float, slope: float, constant: float) -> None:
    g = np.array(values)
    shift = (slope - 0.5) / (2 * GATE_QUADRATIC)
    curve = np.array([shift, constant - GATE_QUADRATIC * shift**2])
    model = quadratic_silu(torch.tensor(g), torch.tensor([scale, slope, constant], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(quadratic_gate(np, scale * g, curve, True) / scale, model, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(("spread", "error"), [(0.1, 1e-4), (0.5, 0.003), (1.0, 0.016), (2.0, 0.025), (5.0, 0.03)])
def test_a_fitted_gate_is_near_silu_where_the_gates_are(spread: float, error: float) -> None:
    g = spread * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    curve, stated = fit_gate_curve(g)
    left = quadratic_silu(g.double(), curve) - torch.nn.functional.silu(g.double())
    assert float(left.square().mean().sqrt()) == pytest.approx(stated, rel=1e-9)
    assert stated < error
    default = quadratic_silu(g.double(), torch.tensor(DEFAULT_CURVE, dtype=torch.float64)) - torch.nn.functional.silu(g.double())
    assert stated <= float(default.square().mean().sqrt()) * 1.001


@pytest.mark.parametrize("built_in", [True, False])
def test_gates_in_fixed_point(built_in: bool) -> None:
    h = np.linspace(-8, 8, 4001)
    x = np.concatenate([np.full_like(h, 3.0), h])[None]
    curve = np.array([-2.6, -0.3])
    found = in_fixed_point(lambda xp: arithmetic(ActivatedGate(1, len(h), "silu-quadratic", built_in), xp), x, curve)
    assert np.abs(found[0] - 3 * quadratic_gate(np, h, curve, built_in)).max() < 12 * LAST_PLACE
    found = in_fixed_point(lambda xp: arithmetic(ActivatedGate(1, len(h), "silu-quartic", built_in), xp), x)
    assert np.abs(found[0] - 3 * silu(np, h, built_in)).max() < 90 * LAST_PLACE
