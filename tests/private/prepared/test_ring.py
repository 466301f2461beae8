"""Products modulo 2^64 on floats, against Python's own integers, which know no overflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.ring import FULL_INNER, WeightMatrix, full_product, signed_limbs

EXTREMES = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**21, 2**22, 2**43, 2**44 - 1, 0x5555555555555555]
words = st.one_of(st.sampled_from(EXTREMES), st.integers(0, 2**64 - 1))


def exact(x: np.ndarray, y: np.ndarray, bits: int = 64) -> np.ndarray:
    """x y by Python's integers, modulo 2^bits."""
    return np.array((x.astype(object) @ y.astype(object)) % 2**bits, dtype=np.uint64)


def matrix(data: st.DataObject, rows: int, columns: int) -> np.ndarray:
    listed = data.draw(st.lists(words, min_size=rows * columns, max_size=rows * columns))
    return np.array(listed, np.uint64).reshape(rows, columns)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4))
def test_products_of_full_range(data: st.DataObject, rows: int, inner: int, outer: int) -> None:
    x, y = matrix(data, rows, inner), matrix(data, inner, outer)
    assert (full_product(x, y) == exact(x, y)).all()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(1, 40), st.sampled_from([32, 64]))
def test_products_with_weights(data: st.DataObject, rows: int, inner: int, outer: int, size: int, ring: int) -> None:
    most = 2**size
    listed = data.draw(
        st.lists(st.one_of(st.sampled_from([-most, most, 0]), st.integers(-most, most)), min_size=inner * outer, max_size=inner * outer)
    )
    x, w = matrix(data, rows, inner), np.array(listed, np.int64).reshape(inner, outer)
    modulus = np.uint64(2**ring - 1)
    assert (WeightMatrix(w, ring).product(x) & modulus == exact(x, w, ring)).all()


@pytest.mark.parametrize("inner", [FULL_INNER, FULL_INNER + 1, 4096, 4097])
def test_the_largest_numbers_of_long_sums(inner: int) -> None:
    # Every limb as large as it can be, all of one sign: the sum that is nearest to the mantissa's end.
    worst = np.uint64(sum((2**21) << (22 * k) for k in range(3)) % 2**64)
    x, y = np.full((2, inner), worst), np.full((inner, 3), worst)
    assert (full_product(x, y) == exact(x, y)).all()
    for size in (18, 21, 25):
        w = np.full((inner, 3), -(2**size), np.int64)
        for word in (worst, np.uint64(2**63), np.uint64(2**64 - 1)):
            assert (WeightMatrix(w).product(np.full((2, inner), word)) == exact(np.full((2, inner), word), w)).all()


def test_batches_are_products_of_each() -> None:
    source = MaskSource()
    x, y = source.words((3, 5, 7)), source.words((3, 7, 2))
    assert (full_product(x, y) == np.stack([exact(a, b) for a, b in zip(x, y, strict=True)])).all()


@settings(max_examples=100, deadline=None)
@given(words, st.integers(2, 33))
def test_limbs_add_up(word: int, bits: int) -> None:
    limbs = signed_limbs(np.array([word], np.uint64), bits)
    assert sum(int(limb[0]) << (bits * k) for k, limb in enumerate(limbs)) % 2**64 == word
    assert all(abs(limb[0]) <= 2 ** (bits - 1) for limb in limbs[:-1])


def test_weights_too_large_for_exact_products_are_refused() -> None:
    with pytest.raises(ValueError, match="too large for exact products"):
        WeightMatrix(np.full((4096, 1), 2**45))


def test_masks_are_uniform_and_never_the_same() -> None:
    one, other = MaskSource().words((1 << 16,)), MaskSource().words((1 << 16,))
    assert not (one == other).any()
    # Bytes of 2^16 words: 2048 expected of each value, with a standard deviation of 45.
    counts = np.bincount(one.view(np.uint8), minlength=256)
    assert np.abs(counts - 2048).max() < 6 * 45
