"""The array programs of the private steps, one per operation of `hushlm.plan`.

Each is a function of arrays written once against an array namespace `xp`: `jax.numpy` when it is compiled for the engine,
`numpy` when the same program runs in float64 as a reference. Masks and indices are public; a selection by a public mask,
slices, padding and concatenation cost nothing, so data moves freely and only arithmetic on secrets is paid for.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, assert_never

import numpy as np

from hushlm.plan import Activate, Divide, Embed, Kernel, Mix, Normalise, Operation, Project, Reveal, ScaleRows, Scores, row_blocks
from hushlm.tiling import Cut

__all__ = ["GELU_EVEN_BOUND", "GELU_EVEN_COEFFICIENTS", "Array", "arithmetic", "clip_bound", "exponential_reference"]

Array = Any
Arithmetic = Callable[..., Array | tuple[Array, ...]]

MASKED_SCORE = -131072.0
"""Stands for minus infinity before the row maximum: far below any score, far inside the ring's range."""

EXACT_SOFTMAX_CLIP = -14.0
"""Where exp is below 1e-6 the argument is held, so that (1 + z/2^n)^(2^n) never grows again."""

NORM_EPSILON = 1e-5

GELU_EVEN_BOUND = 3.0


def _fit_gelu() -> tuple[float, ...]:
    """Even part of GELU, g(x) = GELU(x) - x/2, as a polynomial in x^2 on [0, 3] with g(3) = 3/2 exactly.

    Weighted least squares on Chebyshev nodes, iterated towards equal error (Lawson's algorithm); the constraint makes the
    joint at the bound continuous, so that outside g(x) = |x|/2.
    """
    bound = GELU_EVEN_BOUND
    x = bound * np.cos(np.pi * (np.arange(400) + 0.5) / 800)
    target = 0.5 * x * np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)) - bound / 2
    powers = np.stack([(x * x) ** k - bound ** (2 * k) for k in (1, 2, 3)], 1)
    weight = np.ones_like(x)
    for _ in range(300):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(powers * root, target * root[:, 0], rcond=None)[0]
        weight *= np.abs(powers @ solution - target) + 1e-12
        weight /= weight.sum()
    constant = bound / 2 - sum(c * bound ** (2 * k) for k, c in enumerate(solution, 1))
    return (float(constant), *(float(c) for c in solution))


GELU_EVEN_COEFFICIENTS = _fit_gelu()


def clip_bound(kernel: Kernel) -> float:
    """Lowest z = score - maximum that the exponential sees: -2^n, where SMn's kernel is zero, or `EXACT_SOFTMAX_CLIP`."""
    return -float(2**kernel.squarings) if kernel.bounded else EXACT_SOFTMAX_CLIP


def exponential_reference(z: np.ndarray, kernel: Kernel) -> np.ndarray:
    """What the exponential stands for, in float64: SMn's own kernel, or exp."""
    return np.maximum(1 + z / 2**kernel.squarings, 0) ** (2**kernel.squarings) if kernel.bounded else np.exp(z)


def _exponential(xp: ModuleType, z: Array, kernel: Kernel) -> Array:
    if xp is np:
        return exponential_reference(z, kernel)
    if not kernel.written_out:
        # The engine evaluates exp as (1 + z/2^n)^(2^n) with its cheap squarings, n being a setting of the engine.
        return xp.exp(z)
    power = 1 + z * (1 / 2**kernel.squarings)
    for _ in range(kernel.squarings):
        power = power * power
    return power


def _matrix_product(x_RI: Array, weight_IO: Array, cut: Cut, xp: ModuleType) -> Array:
    """A product cut so that only as much of the weights is encoded at a time as the server's memory allows."""
    rows, inner = x_RI.shape

    def row_block(x: Array) -> Array:
        starts = range(0, inner, cut.columns)
        return sum(x[:, start : start + cut.columns] @ weight_IO[start : start + cut.columns] for start in starts)

    if rows <= cut.rows:
        return row_block(x_RI)
    return xp.concatenate([row_block(x_RI[start : start + cut.rows]) for start in range(0, rows, cut.rows)], 0)


def _block_diagonal(xp: ModuleType, x_HN: Array) -> Array:
    """(H, N) -> (H, H N) with row h in columns h N to (h + 1) N: one product for all heads. Zeros are free."""
    heads, width = x_HN.shape
    rows = [xp.pad(x_HN[h : h + 1], ((0, 0), (h * width, (heads - 1 - h) * width))) for h in range(heads)]
    return xp.concatenate(rows, 0)


def _scores(xp: ModuleType, operation: Scores) -> Arithmetic:
    def joined(q_H1E: Array, k_HSE: Array) -> Array:
        heads, _, head_width = q_H1E.shape
        k_DS = k_HSE.transpose(0, 2, 1).reshape(heads * head_width, -1)
        return (_block_diagonal(xp, q_H1E[:, 0]) @ k_DS)[:, None]

    def by_head(q_HTE: Array, k_HSE: Array) -> Array:
        return q_HTE @ k_HSE.transpose(0, 2, 1)

    return joined if operation.joined else by_head


def _mix(xp: ModuleType, operation: Mix) -> Arithmetic:
    def joined(weights_H1S: Array, v_HSE: Array) -> Array:
        heads, keys, head_width = v_HSE.shape
        mixed_HD = weights_H1S[:, 0] @ v_HSE.transpose(1, 0, 2).reshape(keys, heads * head_width)
        return xp.stack([mixed_HD[h : h + 1, h * head_width : (h + 1) * head_width] for h in range(heads)])

    def by_head(weights_HTS: Array, v_HSE: Array) -> Array:
        return weights_HTS @ v_HSE

    return joined if operation.joined else by_head


def _row_maxima(xp: ModuleType, blocks: list[Array]) -> list[Array]:
    """Maximum over the last axis of each (H, R, C) block, kept as (H, R, 1).

    A tournament in which all blocks play each round together: as many rounds of comparison as the longest row needs, however
    many blocks there are.
    """
    while any(block.shape[-1] > 1 for block in blocks):
        pairs = [block.shape[-1] // 2 for block in blocks]
        first = xp.concatenate([block[..., :pair].reshape(-1) for block, pair in zip(blocks, pairs, strict=True)])
        second = xp.concatenate([block[..., block.shape[-1] - pair :].reshape(-1) for block, pair in zip(blocks, pairs, strict=True)])
        winners, at, left = xp.maximum(first, second), 0, []
        for block, pair in zip(blocks, pairs, strict=True):
            size = block[..., :pair].size
            won = winners[at : at + size].reshape(*block.shape[:-1], pair)
            left.append(xp.concatenate([won, block[..., pair : block.shape[-1] - pair]], -1))
            at += size
        blocks = left
    return blocks


def _kernel(xp: ModuleType, operation: Kernel) -> Arithmetic:
    """Scores (H, T, S) and a public mask (T, S) of allowed pairs -> unnormalised weights (H, T, S) and row sums (H, T).

    Row blocks of the lower triangle, put behind one another as one flat vector: a comparison or squaring pays for whole
    ciphertexts, so padding is paid once.
    """
    heads, keys = operation.heads, operation.keys

    def kernel(s_HTS: Array, allowed_TS: Array) -> tuple[Array, Array]:
        allowed = allowed_TS > 0.5
        blocks, masks = [], []
        for start, stop, limit in row_blocks(operation):
            mask = allowed[None, start:stop, :limit]
            block = xp.where(mask, s_HTS[:, start:stop, :limit], MASKED_SCORE)
            blocks.append(block)
            masks.append(xp.broadcast_to(mask, block.shape).reshape(-1))
        maxima = _row_maxima(xp, blocks)
        differences = [(block - maximum).reshape(-1) for block, maximum in zip(blocks, maxima, strict=True)]
        z = xp.maximum(xp.concatenate(differences), clip_bound(operation))
        flat = xp.where(xp.concatenate(masks), _exponential(xp, z, operation), 0.0)
        rows, at = [], 0
        for start, stop, limit in row_blocks(operation):
            size = heads * (stop - start) * limit
            block = flat[at : at + size].reshape(heads, stop - start, limit)
            rows.append(xp.pad(block, ((0, 0), (0, 0), (0, keys - limit))))
            at += size
        weights_HTS = xp.concatenate(rows, 1)
        return weights_HTS, xp.sum(weights_HTS, -1)

    return kernel


def _normalise(xp: ModuleType, operation: Normalise) -> Arithmetic:
    def normalise(x: Array, *affine: Array) -> Array:
        centred = x - xp.sum(x, -1, keepdims=True) * (1 / operation.width)
        variance = xp.sum(centred * centred, -1, keepdims=True) * (1 / operation.width)
        if xp is np:
            inverse = 1 / np.sqrt(variance + NORM_EPSILON)
        else:
            import jax

            inverse = jax.lax.rsqrt(variance + NORM_EPSILON)
        normal = centred * inverse
        return normal * affine[0] + affine[1] if affine else normal

    return normalise


def _activate(xp: ModuleType, operation: Activate) -> Arithmetic:
    def relu(x: Array) -> Array:
        return xp.maximum(x, 0.0)

    def gelu_even_polynomial(x: Array) -> Array:
        """x/2 + g(|x|): one sign, one clip, one square and two products an element."""
        size = xp.where(x < 0.0, -x, x)
        inside = xp.minimum(size, GELU_EVEN_BOUND)
        u = inside * inside
        c0, c1, c2, c3 = GELU_EVEN_COEFFICIENTS
        even = c0 + u * (c1 + u * (c2 + u * c3))
        return even + (x + size - inside) * 0.5

    def gelu_tanh(x: Array) -> Array:
        return 0.5 * x * (1 + xp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * (x * x * x))))

    return {"relu": relu, "gelu-even-polynomial": gelu_even_polynomial, "gelu-tanh": gelu_tanh}[operation.kind]


def _tournament(xp: ModuleType, values: Array, indices: Array) -> tuple[Array, Array]:
    """Largest value and its index, (n,) -> (1,): one comparison and two selections a pair; the earlier index wins a tie."""
    while values.shape[0] > 1:
        even = values.shape[0] // 2 * 2
        later = values[0:even:2] < values[1:even:2]
        best = xp.where(later, values[1:even:2], values[0:even:2])
        where = xp.where(later, indices[1:even:2], indices[0:even:2])
        # Neighbours meet, so the order of ids is kept.
        values = xp.concatenate([best, values[even:]])
        indices = xp.concatenate([where, indices[even:]])
    return values, indices


def _reveal(xp: ModuleType, operation: Reveal) -> Arithmetic:
    """Last row's logits (1, V) -> ids (k,) as floats and logits (k,); for "logits" the row itself."""
    ids = np.arange(operation.vocabulary, dtype=np.float32)

    def logits(row: Array) -> Array:
        return row[-1]

    def top(row: Array) -> tuple[Array, Array]:
        values, chosen, largest = row[-1], [], []
        for k in range(operation.top):
            value, index = _tournament(xp, values, xp.asarray(ids))
            chosen.append(index)
            largest.append(value)
            if k + 1 < operation.top:
                # Ids are whole numbers: |id - index| < 1/2 exactly at the winner.
                distance = xp.asarray(ids) - index
                values = xp.where(distance * distance < 0.25, MASKED_SCORE, values)
        return xp.concatenate(chosen), xp.concatenate(largest)

    def token(row: Array) -> Array:
        return _tournament(xp, row[-1], xp.asarray(ids))[1]

    return {"logits": logits, "topk": top, "token": token}[operation.kind]


def arithmetic(operation: Operation, xp: ModuleType) -> Arithmetic:
    """The program of an operation on arrays of namespace `xp` (numpy or jax.numpy).

    Arguments and results by operation (weights of the server last):
        Embed: one-hot (T, V), table (V, D), positions (T, D) -> (T, D)
        Normalise: (T, D), and with `affine` gain (D,), bias (D,) -> (T, D)
        Project: (T, I), weight (I, O), bias (O,) -> (T, O)
        ScaleRows: (H, T, E), inverse temperatures (H, T, 1) -> (H, T, E)
        Scores: (H, T, E), (H, S, E) -> (H, T, S)
        Kernel: (H, T, S), public mask (T, S) -> (H, T, S), (H, T)
        Mix: (H, T, S), (H, S, E) -> (H, T, E)
        Divide: (H, T, N), (H, T) -> (H, T, N)
        Activate: (T, F) -> (T, F)
        Reveal: (1, V) -> (V,), or ids (1,), or ids (k,) and logits (k,)
    """
    match operation:
        case Embed():
            cut = operation.cut
            return lambda one_hot_TV, table_VD, positions_TD: _matrix_product(one_hot_TV, table_VD, cut, xp) + positions_TD
        case Normalise():
            return _normalise(xp, operation)
        case Project():
            cut = operation.cut
            return lambda x_TI, weight_IO, bias_O: _matrix_product(x_TI, weight_IO, cut, xp) + bias_O
        case ScaleRows():
            return lambda q_HTE, inverse_HT1: q_HTE * inverse_HT1
        case Scores():
            return _scores(xp, operation)
        case Kernel():
            return _kernel(xp, operation)
        case Mix():
            return _mix(xp, operation)
        case Divide():
            return lambda x_HTN, sums_HT: x_HTN * (1.0 / sums_HT)[..., None]
        case Activate():
            return _activate(xp, operation)
        case Reveal():
            return _reveal(xp, operation)
        case _:
            assert_never(operation)
