"""The array programs of the private steps, one for each operation of `hushlm.plan`.

Each is a function of arrays that is written once for an array namespace `xp`: `jax.numpy` when it is compiled for the engine, and `numpy`
when the same program runs in float64 as a reference. Masks and indices are public. Selections by a public mask, slices, padding and
concatenation cost nothing, so that data can be rearranged freely and only arithmetic on secrets is paid for.

In the names of arrays, T counts rows of queries, S keys, H heads, E the width of a head, D the width of the model, V the vocabulary, and
I and O the inputs and outputs of a linear map; R and N stand for any rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, assert_never

import numpy as np

from hushlm.plan import (
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    Normalise,
    Operation,
    PowerKernel,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
)
from hushlm.plan.cuts import Cut
from hushlm.private.program.attention_kernel import MASKED_SCORE, attention_kernel, power_kernel
from hushlm.private.program.polynomials import gelu, quadratic_gate, reciprocal, silu, smooth_relu, square
from hushlm.private.program.rotary_turns import rotate

__all__ = ["Array", "arithmetic"]

Array = Any
Arithmetic = Callable[..., Array | tuple[Array, ...]]

NORM_EPSILON = 1e-5
SMALLEST_EPSILON = 4e-6
"""About one unit of 18 fraction bits: what is smaller would be rounded to 0, and a row of zeros would have no inverse root."""


def _scale_rows(xp: ModuleType, factor_R: Array, x_RN: Array, block: int) -> Array:
    """Each row times its factor: as products of `block` rows with a diagonal matrix, or elementwise where `block` is 0."""
    if not block:
        return factor_R[:, None] * x_RN
    starts = range(0, x_RN.shape[0], block)
    return xp.concatenate([_diagonal(xp, factor_R[i : i + block]) @ x_RN[i : i + block] for i in starts], 0)


def _squared_lengths(xp: ModuleType, x_RN: Array, block: int) -> Array:
    """The sum of squares of each row, (R, N) -> (R,): as the diagonal of x x^T of `block` rows, or elementwise where `block` is 0."""
    if not block:
        return xp.sum(x_RN * x_RN, -1)
    parts = []
    for start in range(0, x_RN.shape[0], block):
        x = x_RN[start : start + block]
        parts.append(xp.sum(xp.where(np.eye(x.shape[0], dtype=bool), x @ x.T, 0.0), -1))
    return xp.concatenate(parts)


def _diagonal(xp: ModuleType, values_N: Array) -> Array:
    """The diagonal matrix (N, N) of values (N,). Its zeros are public and free."""
    return xp.where(np.eye(values_N.shape[0], dtype=bool), values_N[:, None], 0.0)


def _matrix_product(x_RI: Array, weight_IO: Array, cut: Cut, xp: ModuleType) -> Array:
    """A product cut so that only as much of the weights is encoded at a time as the server's memory allows."""
    rows, inner = x_RI.shape

    def row_block(x: Array) -> Array:
        starts = range(0, inner, cut.columns)
        return sum(x[:, start : start + cut.columns] @ weight_IO[start : start + cut.columns] for start in starts)

    if rows <= cut.rows:
        return row_block(x_RI)
    return xp.concatenate([row_block(x_RI[start : start + cut.rows]) for start in range(0, rows, cut.rows)], 0)


def _block_diagonal(xp: ModuleType, x_HRN: Array) -> Array:
    """(H, R, N) -> (H R, H N), with head h in columns h N to (h + 1) N, so that one product does for all heads. The zeros are free."""
    heads, _, width = x_HRN.shape
    rows = [xp.pad(x_HRN[h], ((0, 0), (h * width, (heads - 1 - h) * width))) for h in range(heads)]
    return xp.concatenate(rows, 0)


def _scores(xp: ModuleType, operation: Scores) -> Arithmetic:
    def joined(q_HRE: Array, k_HSE: Array) -> Array:
        heads, rows, head_width = q_HRE.shape
        k_DS = k_HSE.transpose(0, 2, 1).reshape(heads * head_width, -1)
        return (_block_diagonal(xp, q_HRE) @ k_DS).reshape(heads, rows, -1)

    def by_head(q_HTE: Array, k_HSE: Array) -> Array:
        return q_HTE @ k_HSE.transpose(0, 2, 1)

    return joined if operation.joined else by_head


def _mix(xp: ModuleType, operation: Mix) -> Arithmetic:
    def joined(weights_HRS: Array, v_HSE: Array) -> Array:
        heads, keys, head_width = v_HSE.shape
        rows = weights_HRS.shape[1]
        mixed_ND = weights_HRS.reshape(heads * rows, keys) @ v_HSE.transpose(1, 0, 2).reshape(keys, heads * head_width)
        return xp.stack([mixed_ND[h * rows : (h + 1) * rows, h * head_width : (h + 1) * head_width] for h in range(heads)])

    def by_head(weights_HTS: Array, v_HSE: Array) -> Array:
        return weights_HTS @ v_HSE

    return joined if operation.joined else by_head


def _normalised_rows(xp: ModuleType, operation: Normalise | RmsNormalise, x: Array, epsilon: float) -> Array:
    """Each row over the root of its mean square."""
    mean_square = _squared_lengths(xp, x, operation.squares_block) * (1 / operation.width)
    if xp is np:
        inverse = 1 / np.sqrt(mean_square + epsilon)
    else:
        import jax

        inverse = jax.lax.rsqrt(mean_square + max(epsilon, SMALLEST_EPSILON))
    return _scale_rows(xp, inverse, x, operation.scaling_block)


def _normalise(xp: ModuleType, operation: Normalise) -> Arithmetic:
    def normalise(x: Array, *affine: Array) -> Array:
        centred = x - xp.sum(x, -1, keepdims=True) * (1 / operation.width)
        normal = _normalised_rows(xp, operation, centred, NORM_EPSILON)
        return normal * affine[0] + affine[1] if affine else normal

    return normalise


def _rms_normalise(xp: ModuleType, operation: RmsNormalise) -> Arithmetic:
    def normalise(x: Array, *gain: Array) -> Array:
        normal = _normalised_rows(xp, operation, x, operation.epsilon)
        return normal * gain[0] if gain else normal

    return normalise


def _prepend(xp: ModuleType) -> Arithmetic:
    def prepend(k_GTE: Array, v_GTE: Array, prefix_k_GPE: Array, prefix_v_GPE: Array) -> tuple[Array, Array]:
        return xp.concatenate([prefix_k_GPE, k_GTE], 1), xp.concatenate([prefix_v_GPE, v_GTE], 1)

    return prepend


def _activated_gate(xp: ModuleType, operation: ActivatedGate) -> Arithmetic:
    def gated(x_TN: Array, *curve: Array) -> Array:
        u, h = x_TN[:, : operation.width], x_TN[:, operation.width :]
        match operation.kind:
            case "silu-quartic":
                return silu(xp, h, operation.built_in_squares) * u
            case "silu-tanh":
                return 0.5 * h * (1 + xp.tanh(h)) * u
            case "silu-quadratic":
                return quadratic_gate(xp, h, curve[0], operation.built_in_squares) * u
            case _:
                assert_never(operation.kind)

    return gated


def _divide(xp: ModuleType, operation: Divide) -> Arithmetic:
    def divide(x_HTN: Array, sums_HT: Array) -> Array:
        sums = sums_HT.reshape(-1)
        # In float64 the reference is the division itself, just as exponentials are exact there.
        inverse = reciprocal(xp, sums, operation.largest, operation.smallest) if operation.polynomial and xp is not np else 1.0 / sums
        return _scale_rows(xp, inverse, x_HTN.reshape(len(sums), -1), operation.block).reshape(x_HTN.shape)

    return divide


def _activate(xp: ModuleType, operation: Activate) -> Arithmetic:
    def relu(x: Array) -> Array:
        return xp.maximum(x, 0.0)

    def squared_relu(x: Array) -> Array:
        return square(xp, xp.maximum(x, 0.0), operation.built_in_squares)

    def squared(x: Array) -> Array:
        return square(xp, x, operation.built_in_squares)

    def gelu_quartic(x: Array) -> Array:
        return gelu(xp, x, operation.built_in_squares)

    def polynomial(x: Array) -> Array:
        return smooth_relu(xp, x, operation.built_in_squares)

    def gelu_tanh(x: Array) -> Array:
        return 0.5 * x * (1 + xp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * (x * x * x))))

    match operation.kind:
        case "relu":
            return relu
        case "squared-relu":
            return squared_relu
        case "polynomial":
            return polynomial
        case "square":
            return squared
        case "gelu-quartic":
            return gelu_quartic
        case "gelu-tanh":
            return gelu_tanh
        case _:
            assert_never(operation.kind)


def _tournament(xp: ModuleType, values: Array, indices: Array) -> tuple[Array, Array]:
    """The largest of n values and its index, both (1,). Each pair takes a comparison and two selections.

    Of equal values the one with the smallest index wins.
    """
    while values.shape[0] > 1:
        even = values.shape[0] // 2 * 2
        later = values[0:even:2] < values[1:even:2]
        best = xp.where(later, values[1:even:2], values[0:even:2])
        where = xp.where(later, indices[1:even:2], indices[0:even:2])
        # Neighbours are compared, so that the order of the ids is kept.
        values = xp.concatenate([best, values[even:]])
        indices = xp.concatenate([where, indices[even:]])
    return values, indices


def _reveal(xp: ModuleType, operation: Reveal) -> Arithmetic:
    """The last row's logits (1, V) -> the ids (k,), as floats, and the logits (k,) of the answer; for "logits" the row itself.

    Of several rows of further tokens (R, V): the ids (R,), or all rows.
    """
    ids = np.arange(operation.vocabulary, dtype=np.float32)

    def logits(row: Array) -> Array:
        return row[-1] if operation.rows == 1 else row

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
        found = [_tournament(xp, row[-place], xp.asarray(ids))[1] for place in range(operation.rows, 0, -1)]
        return xp.concatenate(found) if len(found) > 1 else found[0]

    return {"logits": logits, "topk": top, "token": token}[operation.kind]


def arithmetic(operation: Operation, xp: ModuleType) -> Arithmetic:
    """The program of an operation on arrays of namespace `xp` (numpy or jax.numpy).

    Arguments and results by operation (weights of the server last):
        Embed: one-hot (T, V), table (V, D), positions (T, D) -> (T, D)
        Normalise: (T, D), and with `affine` gain (D,), bias (D,) -> (T, D)
        RmsNormalise: (T, D), and with `affine` gain (D,) -> (T, D)
        Project: (T, I), weight (I, O), bias (O,) -> (T, O)
        ScaleRows: (H, T, E), inverse temperatures (H, T, 1) -> (H, T, E)
        Rotate: (H, T, E), (H, S, E), public turns (2, T, R), (2, S, R) -> (H, T, E), (H, S, E)
        Prepend: (G, T, E), (G, T, E), the prefix's keys and values (G, P, E) -> (G, P + T, E), (G, P + T, E)
        Scores: (H, T, E), (H, S, E) -> (H, T, S)
        Kernel: (H, T, S), public mask (T, S) -> (H, T, S), (H, T)
        Mix: (H, T, S), (H, S, E) -> (H, T, E)
        Divide: (H, T, N), (H, T) -> (H, T, N)
        Activate: (T, F) -> (T, F)
        Gate: (T, 2F) -> (T, F)
        ActivatedGate: (T, 2F), and of "silu-quadratic" the curve (2,) -> (T, F)
        Reveal: (1, V) -> (V,), or ids (1,), or ids (k,) and logits (k,); (R, V) -> (R, V), or ids (R,)

    A namespace that is not a module (of prepared answers) has forms of its own.
    """
    if not isinstance(xp, ModuleType):
        return xp.arithmetic(operation)
    match operation:
        case Embed():
            cut = operation.cut
            return lambda one_hot_TV, table_VD, positions_TD: _matrix_product(one_hot_TV, table_VD, cut, xp) + positions_TD
        case Normalise():
            return _normalise(xp, operation)
        case RmsNormalise():
            return _rms_normalise(xp, operation)
        case Prepend():
            return _prepend(xp)
        case Project():
            cut = operation.cut
            return lambda x_TI, weight_IO, bias_O: _matrix_product(x_TI, weight_IO, cut, xp) + bias_O
        case ScaleRows():
            return lambda q_HTE, inverse_HT1: q_HTE * inverse_HT1
        case Rotate():
            return rotate(xp, operation)
        case Scores():
            return _scores(xp, operation)
        case Kernel():
            return attention_kernel(xp, operation)
        case PowerKernel():
            return power_kernel(xp, operation)
        case Mix():
            return _mix(xp, operation)
        case Divide():
            return _divide(xp, operation)
        case Activate():
            return _activate(xp, operation)
        case Gate(_, width):
            return lambda x_TN: x_TN[:, :width] * x_TN[:, width:]
        case ActivatedGate():
            return _activated_gate(xp, operation)
        case Reveal():
            return _reveal(xp, operation)
        case _:
            assert_never(operation)
