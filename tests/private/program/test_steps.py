"""The array programs against plain formulas, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushlm.architectures import POWER_FLOOR
from hushlm.plan import Activate, ActivatedGate, Divide, Kernel, Mix, Normalise, Prepend, Project, Reveal, RmsNormalise, Scores, row_lengths
from hushlm.plan.attention_operations import SMALLEST_POWER_SUM, PowerKernel
from hushlm.plan.cuts import Cut, product_cut
from hushlm.plan.engine_tiles import POLYNOMIAL_BYTES, tile_product
from hushlm.private.program.attention_kernel import weight_roots
from hushlm.private.program.steps import arithmetic


def kernel(rows: int, triangle: bool = True, order: int = 2, bounded: bool = True) -> Kernel:
    return Kernel(2, rows, rows, order, bounded=bounded, triangle=triangle, written_out=0, exponentials=1)


@given(rows=st.integers(1, 40), triangle=st.booleans(), order=st.sampled_from([1, 2, 3]), seed=st.integers(0, 99))
def test_kernel_of_the_lower_triangle_is_the_kernel(rows: int, triangle: bool, order: int, seed: int) -> None:
    scores = 6 * np.random.default_rng(seed).standard_normal((2, rows, rows))
    mask = np.tril(np.ones((rows, rows)))
    weights, sums = arithmetic(kernel(rows, triangle, order), np)(scores, mask)
    maxima = np.where(mask > 0, scores, -np.inf).max(-1, keepdims=True)
    wanted = np.maximum(0, 1 + (scores - maxima) / 2**order) ** (2**order) * mask
    np.testing.assert_allclose(weights, wanted, atol=1e-12)
    np.testing.assert_allclose(sums, wanted.sum(-1), atol=1e-12)


@pytest.mark.parametrize("triangle", [True, False])
def test_exact_kernel_is_softmax(triangle: bool) -> None:
    scores = 3 * np.random.default_rng(0).standard_normal((2, 9, 9))
    mask = np.tril(np.ones((9, 9)))
    weights, sums = arithmetic(kernel(9, triangle, 6, bounded=False), np)(scores, mask)
    masked = np.where(mask > 0, scores, -np.inf)
    wanted = np.exp(masked - masked.max(-1, keepdims=True))
    wanted /= wanted.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights / sums[..., None], wanted, atol=2e-6)


@given(rows=st.integers(1, 40), hidden=st.integers(0, 6), triangle=st.booleans(), order=st.sampled_from([1, 2, 3]), seed=st.integers(0, 99))
def test_power_kernel_is_the_kernel_up_to_a_factor_of_each_row(rows: int, hidden: int, triangle: bool, order: int, seed: int) -> None:
    scores = 3 * np.random.default_rng(seed).standard_normal((2, rows, rows))
    mask = np.tril(np.ones((rows, rows))) * (np.arange(rows) >= min(hidden, rows - 1)) + np.eye(rows)
    mask = np.minimum(mask, 1)
    operation = PowerKernel(2, rows, rows, order, triangle, written_out=0, exponentials=1)
    weights, sums = arithmetic(operation, np)(scores, mask, weight_roots(mask, order))
    allowed = mask.sum(-1)
    wanted = ((1 + scores / 2**order) ** (2**order) + POWER_FLOOR) * mask / (8 * allowed[:, None])
    wanted = np.where(allowed[:, None] == 1, mask, wanted)
    np.testing.assert_allclose(weights, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sums, wanted.sum(-1), rtol=1e-9)
    assert sums.min() >= SMALLEST_POWER_SUM * (1 - 1e-12)


@pytest.mark.parametrize("triangle", [True, False])
def test_masked_scores_do_not_matter_however_large(triangle: bool) -> None:
    scores = np.random.default_rng(1).standard_normal((2, 8, 8))
    mask = np.tril(np.ones((8, 8)))
    mask[5, 2] = 0
    poisoned = np.where(mask > 0, scores, 5000.0)
    program = arithmetic(kernel(8, triangle), np)
    np.testing.assert_array_equal(program(scores, mask)[0], program(poisoned, mask)[0])
    assert program(scores, mask)[0][:, 5, 2].max() == 0


@given(rows=st.integers(1, 300))
def test_a_triangle_is_exact(rows: int) -> None:
    assert sum(row_lengths(kernel(rows))) == rows * (rows + 1) // 2
    assert kernel(rows).elements == rows * (rows + 1)
    assert kernel(rows, triangle=False).elements == 2 * rows * rows


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=70))
def test_token_is_the_first_largest_logit(logits: list[int]) -> None:
    row = np.array([logits], float)
    found = arithmetic(Reveal(len(logits), "token"), np)(row)
    assert found == [np.argmax(row[0])]


@given(st.lists(st.integers(-500, 500), min_size=5, max_size=70, unique=True), st.integers(1, 5))
def test_top_k_are_the_largest_in_order(logits: list[int], top: int) -> None:
    ids, values = arithmetic(Reveal(len(logits), "topk", top), np)(np.array([logits], float))
    order = np.argsort(logits)[::-1][:top]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(values, np.array(logits)[order])


def test_tanh_gelu_is_gpt2s() -> None:
    x = np.linspace(-60, 60, 4001)
    exact = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(arithmetic(Activate(1, 1, "gelu-tanh", False), np)(x), exact, atol=1e-12)


@pytest.mark.parametrize("block", [0, 1, 2, 3, 5, 9])
def test_normalise_with_gain_and_bias(block: int) -> None:
    random = np.random.default_rng(2)
    x, gain, bias = random.standard_normal((5, 8)), random.standard_normal(8), random.standard_normal(8)
    plain = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(arithmetic(Normalise(5, 8, False, block, block), np)(x), plain, atol=1e-12)
    np.testing.assert_allclose(arithmetic(Normalise(5, 8, True, block, block), np)(x, gain, bias), plain * gain + bias, atol=1e-12)


@pytest.mark.parametrize("block", [0, 1, 4, 7, 12, 50])
def test_divide_by_row_sums(block: int) -> None:
    random = np.random.default_rng(3)
    x, sums = random.standard_normal((3, 4, 5)), random.uniform(1, 9, (3, 4))
    found = arithmetic(Divide(3, 4, 5, 9, True, block), np)(x, sums)
    np.testing.assert_allclose(found, x / sums[..., None], atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_cut_product_is_the_product(rows: int, columns: int) -> None:
    random = np.random.default_rng(4)
    x, weight, bias = random.standard_normal((7, 5)), random.standard_normal((5, 6)), random.standard_normal(6)
    found = arithmetic(Project(7, 5, 6, Cut(rows, columns)), np)(x, weight, bias)
    np.testing.assert_allclose(found, x @ weight + bias, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "inner", "outer"), [(1, 8, 8), (128, 768, 2304), (128, 3072, 768), (128, 50257, 768), (1, 768, 50257), (100, 64, 256)]
)
def test_cuts_keep_to_the_servers_memory(rows: int, inner: int, outer: int) -> None:
    cut = product_cut(rows, inner, outer)
    assert 1 <= cut.rows <= rows
    assert 1 <= cut.columns <= inner
    assert tile_product(cut.rows, cut.columns, outer).plaintexts * POLYNOMIAL_BYTES <= 4e9


@pytest.mark.parametrize("block", [0, 1, 3, 9])
def test_rms_norm_with_gain(block: int) -> None:
    random = np.random.default_rng(2)
    x, gain = random.standard_normal((5, 8)), random.standard_normal(8)
    plain = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.01)
    np.testing.assert_allclose(arithmetic(RmsNormalise(5, 8, False, 0.01, block, block), np)(x), plain, atol=1e-12)
    np.testing.assert_allclose(arithmetic(RmsNormalise(5, 8, True, 0.01, block, block), np)(x, gain), plain * gain, atol=1e-12)


def test_tanh_silu_is_silu() -> None:
    g = np.linspace(-60, 60, 4001)
    found = arithmetic(ActivatedGate(1, len(g), "silu-tanh", False), np)(np.concatenate([np.full_like(g, 3.0), g / 2])[None])
    np.testing.assert_allclose(2 * found[0], 3 * g / (1 + np.exp(-g)), atol=1e-12)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_scores_and_mix_of_heads_that_share_keys(rows: int, joined: bool) -> None:
    random = np.random.default_rng(2)
    q, k, weights = random.standard_normal((2, rows, 4)), random.standard_normal((2, 7, 4)), random.standard_normal((2, rows, 7))
    scores = arithmetic(Scores(2, rows, 7, 4, joined, rows), np)(q, k)
    np.testing.assert_allclose(scores, np.einsum("gre,gse->grs", q, k), atol=1e-12)
    mixed = arithmetic(Mix(2, rows, 7, 4, joined, rows), np)(weights, k)
    np.testing.assert_allclose(mixed, np.einsum("grs,gse->gre", weights, k), atol=1e-12)


def test_a_prefix_comes_first() -> None:
    random = np.random.default_rng(2)
    k, v, before_k, before_v = (random.standard_normal((2, rows, 4)) for rows in (5, 5, 3, 3))
    keys, values = arithmetic(Prepend(2, 3, 5, 4), np)(k, v, before_k, before_v)
    np.testing.assert_array_equal(keys, np.concatenate([before_k, k], 1))
    np.testing.assert_array_equal(values, np.concatenate([before_v, v], 1))
