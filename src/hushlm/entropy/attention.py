"""Attention that also returns the exact entropy of every row, differentiable, for exact softmax and the MPC-native kernel.

Legend: B batch, T query tokens, S key tokens, H heads, E head width.

With scores s_ij = q_i . k_j / (t_i sqrt(E)) over the allowed keys j <= i + (S - T), m_i their maximum and z = s - m:

    order=None   w = exp(z)                                exact softmax
    order=n      w = max(0, 1 + z / 2^n)^(2^n)             n squarings under MPC; tends to exp(z) as n grows
    power        w = (1 + s / 2^n)^(2^n) + floor           the same without row maximum and without clip: no comparison under MPC
    p = w / sum_j w        output_i = sum_j p_ij v_j        H_i = -sum_j p_ij log p_ij   (nats)

H_i lies between 0 (one-hot) and the log of the number of allowed keys (uniform). Source: arXiv 2501.03489, eq. 7, without its
epsilon: subtracting the row maximum first makes the entropy exact, so none is needed. For order=n the gradient flows through m,
because that kernel, unlike softmax, changes when all scores of a row move together; with m detached heads collapse to one-hot.

The power kernel grows again below s = -2^n, so a model that uses it has to keep its scores above. Its floor, `POWER_FLOOR` of
`hushlm.architectures`, bounds the row sums from below by floor times the number of allowed keys, whatever the scores.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from hushlm.entropy.kernels import choose
from hushlm.entropy.kernels.base import Form

__all__ = ["entropy_attention"]

_ACCUMULATE = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}


def entropy_attention(
    q_BHTE: Tensor,
    k_BHSE: Tensor,
    v_BHSE: Tensor,
    *,
    temperature: Tensor | None = None,
    order: int | None = None,
    power: bool = False,
    causal: bool = True,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention output and the entropy of every attention row.

    Args:
        q_BHTE: queries. When S > T they belong to the last T positions, as with a key-value cache.
        k_BHSE: keys.
        v_BHSE: values, E wide as the keys.
        temperature: t, positive, of shape (H,) or (H, T); None is 1. Higher is more uniform. Its gradient is exact.
        order: None for exact softmax, or n >= 1 for the MPC-native kernel of n squarings.
        power: leave out the row maximum and the clip of the kernel of order n.
        causal: each query sees its own and earlier positions only; False shows every key to every query.
        kernel: name of an implementation, one of `hushlm.entropy.kernels.KERNELS`; None picks the fastest that can take the inputs.

    Returns:
        output_BHTE in the inputs' type, and entropy_nats_BHT in float32 (float64 for float64 inputs). Half-precision inputs are
        computed in float32 throughout.

    Raises:
        ValueError: for shapes or types that do not fit together, or an unknown kernel.
    """
    _check(q_BHTE, k_BHSE, v_BHSE, temperature, Form(order, power), causal)
    dtype = _ACCUMULATE[q_BHTE.dtype]
    scale_HT = q_BHTE.new_full((1, 1), 1.0 / math.sqrt(q_BHTE.shape[-1]), dtype=dtype)
    if temperature is not None:
        scale_HT = scale_HT / (temperature if temperature.ndim == 2 else temperature[:, None]).to(dtype)
    q_BHTE_wide, k_BHSE_wide, v_BHSE_wide = (x.to(dtype) for x in (q_BHTE, k_BHSE, v_BHSE))
    run = choose(q_BHTE_wide, order=order, name=kernel).run
    device = q_BHTE.device.type
    # Under autocast a kernel's own products would be rounded to half precision.
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        output_BHTE, entropy_nats_BHT = run(q_BHTE_wide, k_BHSE_wide, v_BHSE_wide, scale_HT, Form(order, power), causal)
    return output_BHTE.to(q_BHTE.dtype), entropy_nats_BHT


def _check(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, temperature: Tensor | None, form: Form, causal: bool) -> None:
    if q_BHTE.ndim != 4 or k_BHSE.ndim != 4 or k_BHSE.shape != v_BHSE.shape or not _same_but_tokens(q_BHTE, k_BHSE):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BHTE, k_BHSE, v_BHSE))
        raise ValueError(f"Queries, keys and values must have shapes (B, H, T, E), (B, H, S, E) and (B, H, S, E), but have {shapes}.")
    if q_BHTE.dtype not in _ACCUMULATE or not q_BHTE.dtype == k_BHSE.dtype == v_BHSE.dtype:
        raise ValueError(
            f"Queries, keys and values must share one floating-point type, but are {q_BHTE.dtype}, {k_BHSE.dtype} and {v_BHSE.dtype}."
        )
    heads, queries, keys = q_BHTE.shape[1], q_BHTE.shape[2], k_BHSE.shape[2]
    if queries == 0 or keys == 0 or (causal and keys < queries):
        raise ValueError(f"Causal attention of {queries} queries needs at least as many keys, and at least one, but got {keys}.")
    if temperature is not None and tuple(temperature.shape) not in ((heads,), (heads, queries)):
        raise ValueError(f"The temperature must have shape ({heads},) or ({heads}, {queries}), but has {tuple(temperature.shape)}.")
    if form.order is not None and form.order < 1:
        raise ValueError(f"The kernel's order must be at least 1, or None for exact softmax, not {form.order}.")
    if form.power and form.order is None:
        raise ValueError("The kernel without row maximum needs an order: exact softmax has none.")


def _same_but_tokens(q_BHTE: Tensor, k_BHSE: Tensor) -> bool:
    return q_BHTE.shape[:2] == k_BHSE.shape[:2] and q_BHTE.shape[3] == k_BHSE.shape[3]
