"""Pure torch with the gradient by hand: one T x S tensor is kept for the backward pass, and only its causal part.

Derivation, per row, with w, Z = sum w, p = w / Z as in `hushlm.entropy.attention`, dO and g the gradients of output and entropy H:

    dP_j = dO . v_j                            D = sum_j p_j dP_j = dO . O
    dH/dp_j = -log p_j - 1                     (the 1 cancels, because sum_j p_j is constant)
    dL/dw_j = (dP_j - g log p_j - D - g H) / Z
            = dP_j / Z - (g / Z) log w_j - c,  c = (D + g (H - log Z)) / Z
    dL/dz_j = dL/dw_j dw_j/dz_j                dw/dz = w for softmax; u^(N-1) for order n, where w = u^N, N = 2^n, u = 1 + z/N

z = s - m. Softmax does not see the shift by the maximum m, so dS = dL/dz. Order n does: m takes -sum_j dL/dz_j, shared evenly
among tied scores as `amax` does; scores closer than rounding count as tied. 1/Z goes into dO, a T x E tensor. The power kernel, with
w = u^N + floor and u = 1 + s/N, has the same dw/ds = u^(N-1), and no maximum to pass anything to.

Rows are taken in blocks, so that a block of queries never touches keys that none of its rows may see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hushlm.architectures import POWER_FLOOR
from hushlm.entropy.kernels.base import Form, KernelImplementation, causal_bias

__all__ = ["KERNEL"]

BLOCK_ROWS = 64
"""Queries a block. Smaller skips more of the mask, larger has fewer, larger products."""

LOG2_E = math.log2(math.e)
"""Softmax works in base 2: on a CPU exp2 takes a quarter of the time of exp, which is slower still where it underflows."""


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """The rows of each block and how many keys, from the first, its last row may see."""
    for start in range(0, queries, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, queries)
        yield slice(start, stop), keys - queries + stop if causal else keys


class _Attention(torch.autograd.Function):
    """Batch and heads are one axis N throughout: q_NTE, k_NSE, v_NSE -> output_NTE, entropy_nats_NT."""

    @staticmethod
    def forward(ctx: Any, q_NTE: Tensor, k_NSE: Tensor, v_NSE: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
        output_NTE = torch.empty_like(q_NTE)
        total_NT, entropy_NT = q_NTE.new_empty(q_NTE.shape[:2]), q_NTE.new_empty(q_NTE.shape[:2])
        kept_blocks = []
        for rows, seen in _blocks(q_NTE.shape[1], k_NSE.shape[1], causal):
            kept = _kept(q_NTE[:, rows], k_NSE[:, :seen].mT, form, causal)
            w, _ = _weights(kept, form)
            if form.power and causal:
                w.tril_(w.shape[2] - w.shape[1])
            total = w.sum(-1, keepdim=True)
            output_NTE[:, rows] = (w @ v_NSE[:, :seen]).div_(total)
            total_NT[:, rows] = total.squeeze(-1)
            log_w, unit = _log_weights(kept, form)
            mean_log_w = w.mul_(log_w).sum(-1).mul_(unit).div_(total.squeeze(-1))
            entropy_NT[:, rows] = total.squeeze(-1).log().sub_(mean_log_w).clamp_min_(0)  # rounding may leave -1e-8
            kept_blocks.append(kept)
        ctx.save_for_backward(q_NTE, k_NSE, v_NSE, output_NTE, total_NT, entropy_NT, *kept_blocks)
        ctx.form, ctx.causal = form, causal
        ctx.set_materialize_grads(False)
        return output_NTE, entropy_NT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output_NTE: Tensor | None, d_entropy_NT: Tensor | None) -> tuple[Tensor | None, ...]:
        if d_output_NTE is None and d_entropy_NT is None:
            return None, None, None, None, None
        q_NTE, k_NSE, v_NSE, output_NTE, total_NT, entropy_NT, *kept_blocks = ctx.saved_tensors
        d_q_NTE, d_k_NSE, d_v_NSE = torch.empty_like(q_NTE), torch.zeros_like(k_NSE), torch.zeros_like(v_NSE)
        for (rows, seen), kept in zip(_blocks(q_NTE.shape[1], k_NSE.shape[1], ctx.causal), kept_blocks, strict=True):
            w, slope = _weights(kept, ctx.form)
            if ctx.form.power and ctx.causal:
                w.tril_(seen - w.shape[1])
            total = total_NT[:, rows, None]
            if d_output_NTE is None:
                d_w = torch.zeros_like(w)
            else:
                d_output = d_output_NTE[:, rows] / total
                d_v_NSE[:, :seen].baddbmm_(w.mT, d_output)
                d_w = d_output @ v_NSE[:, :seen].mT
                d_w.sub_((d_output * output_NTE[:, rows]).sum(-1, keepdim=True))
            if d_entropy_NT is not None:
                g = d_entropy_NT[:, rows, None] / total
                d_w.sub_(g * (entropy_NT[:, rows, None] - total.log()))
                log_w, unit = _log_weights(kept, ctx.form)
                d_w.addcmul_(log_w, g, value=-unit)
            d_score = d_w.mul_(slope)
            if ctx.form.power and ctx.causal:
                d_score.tril_(seen - w.shape[1])
            if ctx.form.through_maximum:
                tied = (kept == 1).to(kept.dtype)
                d_score.sub_(tied.mul_(d_score.sum(-1, keepdim=True) / tied.sum(-1, keepdim=True)))
            d_q_NTE[:, rows] = d_score @ k_NSE[:, :seen]
            d_k_NSE[:, :seen].baddbmm_(d_score.mT, q_NTE[:, rows])
        return d_q_NTE, d_k_NSE, d_v_NSE, None, None


def _kept(q_NRE: Tensor, k_t_NES: Tensor, form: Form, causal: bool) -> Tensor:
    """What the backward pass needs of a block of R queries: z / log 2 for softmax, u for order n."""
    if form.order is None:
        q_NRE = q_NRE * LOG2_E
    bias_RS = causal_bias(q_NRE.shape[1], k_t_NES.shape[2], q_NRE) if causal and not form.power else None
    score = q_NRE @ k_t_NES if bias_RS is None else torch.baddbmm(bias_RS, q_NRE, k_t_NES)
    z = score if form.power else score.sub_(score.amax(-1, keepdim=True))
    if form.order is None:
        return z
    u = z.div_(2**form.order).add_(1)
    return u if form.power else u.clamp_min_(0)


def _weights(kept: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """w and dw/dz, from what is kept; masked keys of the power kernel are the caller's.

    The first is a new tensor, the second may be either's.
    """
    if form.order is None:
        w = kept.exp2()
        return w, w
    power, slope = kept, kept
    for _ in range(form.order - 1):
        power = power * power
        slope = slope * power
    return slope * kept + POWER_FLOOR if form.power else slope * kept, slope


def _log_weights(kept: Tensor, form: Form) -> tuple[Tensor, float]:
    """log w as a tensor and a factor to it; finite where w is 0, because there it only ever meets a factor of 0."""
    if form.order is None:
        return kept, 1 / LOG2_E
    if form.power:
        return _weights(kept, form)[0].log_(), 1.0
    return kept.clamp_min(torch.finfo(kept.dtype).tiny).log_(), 2.0**form.order


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
    # The scale goes into the queries, T*E products instead of T*S; autograd carries it back to the temperature.
    q_NTE = (q_BHTE * scale_HT[..., None]).flatten(0, 1)
    output_NTE, entropy_NT = _Attention.apply(q_NTE, k_BHSE.flatten(0, 1), v_BHSE.flatten(0, 1), form, causal)
    batch_and_heads = q_BHTE.shape[:2]
    return output_NTE.unflatten(0, batch_and_heads), entropy_NT.unflatten(0, batch_and_heads)


KERNEL = KernelImplementation(name="analytic", run=_run)
