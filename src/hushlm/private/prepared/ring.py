"""Exact matrix products modulo 2^64 (or 2^32), in float64 on the BLAS library, which multiplies whole numbers below 2^53 exactly.

A number is cut into signed limbs, x = sum_k limb_k 2^(b k), so short that a sum of products of limbs stays below 2^53; the products of
limbs are ordinary float64 matrix products, and their sum, shifted, wraps modulo 2^64 as unsigned integers do.

Legend: R rows, I inner, O outer dimension.
"""

from __future__ import annotations

from copy import copy

import numpy as np

from hushlm.private.engine.shares import Words

__all__ = ["WeightMatrix", "full_product", "signed_limbs"]

MANTISSA_BITS = 53
RING_BITS = 64
FULL_LIMB_BITS = 22
"""Three limbs cover 64 bits, and 341 products of two of them, three times over, stay below 2^53."""
FULL_INNER = 2 ** (MANTISSA_BITS - 2 * (FULL_LIMB_BITS - 1)) // 3


def signed_limbs(x: Words, limb_bits: int, ring_bits: int = RING_BITS) -> list[np.ndarray]:
    """Limbs as float64, lowest first: sum_k limb_k 2^(limb_bits k) = x modulo 2^ring_bits, with |limb| <= 2^(limb_bits - 1)."""
    rest = np.ascontiguousarray(x).view(np.int64)
    half, low_bits, found = 1 << (limb_bits - 1), (1 << limb_bits) - 1, []
    for low in range(0, ring_bits, limb_bits):
        if low + limb_bits >= RING_BITS:
            found.append(rest.astype(np.float64))
            break
        limb = ((rest + half) & low_bits) - half
        found.append(limb.astype(np.float64))
        rest = (rest - limb) >> limb_bits
    return found


class WeightMatrix:
    """Whole numbers (I, O), small beside the ring, for products with words of full range.

    Args:
        whole: signed integers below 2^40 in size (weights in fixed point).
        ring_bits: products are exact modulo 2^ring_bits, 64 or 32: a smaller ring needs fewer limbs.

    Raises:
        ValueError: if the numbers are too large.
    """

    def __init__(self, whole: np.ndarray, ring_bits: int = RING_BITS, inner_step: int = 4096) -> None:
        largest = max(1, int(np.abs(whole).max(initial=0)))
        # A number below 2^size times a limb of at most 2^(b-1), added up inner_step times, is at most 2^53.
        self._step = min(max(1, whole.shape[0]), inner_step)
        room = MANTISSA_BITS + 1 - largest.bit_length() - (self._step - 1).bit_length()
        if room < 2:
            raise ValueError(f"Numbers up to {largest} are too large for exact products: at most 2^{MANTISSA_BITS - 13} fit.")
        self._limbs = -(-ring_bits // room)
        self._limb_bits = -(-ring_bits // self._limbs)
        self._ring_bits, self._whole = ring_bits, whole.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        return self._whole.shape[0], self._whole.shape[1]

    def rows(self, indices: np.ndarray) -> WeightMatrix:
        """Some of the rows, copied."""
        some = copy(self)
        some._whole = self._whole[indices]
        return some

    def product(self, x: Words) -> Words:
        """(R, I) -> (R, O), x W modulo 2^ring_bits; bits above are to be ignored. The limbs of x are multiplied together, so that the
        weights are read once."""
        rows, inner = x.shape
        stacked = np.concatenate(signed_limbs(x, self._limb_bits, self._ring_bits))
        total = np.zeros((rows, self._whole.shape[1]), np.uint64)
        for start in range(0, inner, self._step):
            parts = stacked[:, start : start + self._step] @ self._whole[start : start + self._step]
            for k in range(len(stacked) // max(1, rows)):
                limb = parts[k * rows : (k + 1) * rows].astype(np.int64).view(np.uint64)
                total += limb << np.uint64(self._limb_bits * k) if k else limb
        return total


def full_product(x: Words, y: Words) -> Words:
    """(..., R, I) times (..., I, O), both of full range, modulo 2^64.

    Of limbs x_i and y_j only those with i + j <= 2 matter; those of equal i + j stand beside one another in one product of three times
    the inner dimension.
    """
    inner = x.shape[-1]
    if inner > FULL_INNER:
        cut = inner // 2
        return full_product(x[..., :cut], y[..., :cut, :]) + full_product(x[..., cut:], y[..., cut:, :])
    left, right = signed_limbs(x, FULL_LIMB_BITS), signed_limbs(y, FULL_LIMB_BITS)
    across, down = np.concatenate(left, -1), np.concatenate(right[::-1], -2)
    total = np.zeros((*x.shape[:-1], y.shape[-1]), np.uint64)
    for k in range(len(left)):
        # x_0 y_k + ... + x_k y_0
        part = across[..., : inner * (k + 1)] @ down[..., inner * (len(left) - 1 - k) :, :]
        total += part.astype(np.int64).view(np.uint64) << np.uint64(FULL_LIMB_BITS * k)
    return total
