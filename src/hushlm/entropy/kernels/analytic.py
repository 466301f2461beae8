"""Pure torch with the gradient by hand: the probabilities are the only T x S tensor kept, and only their causal part.

Derivation, per row, with w, Z = sum w, p = w / Z as in `hushlm.entropy.attention`, dO and g the gradients of output and entropy:

    dP_j = dO . v_j                            D = sum_j p_j dP_j = dO . O
    dH/dp_j = -log p_j - 1                     (the 1 cancels, because sum_j p_j is constant)
    G_j = dP_j - g log p_j - (D + g H)         so that dL/dw_j = G_j / Z
    softmax:   dS_j = p_j G_j                  (shift-invariant: nothing flows through the maximum)
    order n:   w = u^N with N = 2^n and u = 1 + z/N, hence dL/dz_j = u_j^(N-1) G_j / Z, with u_j^(N-1) = w^(1/2) w^(1/4) ... w^(1/N)
               (n square roots), 0 outside the support; and the maximum takes -sum_j dL/dz_j, shared evenly among tied
               scores as `amax` does. Scores closer than rounding count as tied.

Rows are taken in blocks, so that a block of queries never touches keys that none of it may see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hushlm.entropy.kernels.base import Kernel, causal_bias

__all__ = ["KERNEL"]

BLOCK_ROWS = 128
"""Queries a block. Smaller skips more of the mask, larger has fewer, larger products."""


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """The rows of each block and how many keys, from the first, its last row may see."""
    for start in range(0, queries, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, queries)
        yield slice(start, stop), keys - queries + stop if causal else keys


class _Attention(torch.autograd.Function):
    """Batch and heads are one axis N throughout: q_NTE, k_NSE, v_NSE -> output_NTE, entropy_nats_NT."""

    @staticmethod
    def forward(ctx: Any, q_NTE: Tensor, k_NSE: Tensor, v_NSE: Tensor, order: int | None, causal: bool) -> tuple[Tensor, Tensor]:
        output_NTE = torch.empty_like(q_NTE)
        entropy_NT = q_NTE.new_empty(q_NTE.shape[:2])
        probabilities = []
        for rows, seen in _blocks(q_NTE.shape[1], k_NSE.shape[1], causal):
            q, k_t = q_NTE[:, rows], k_NSE[:, :seen].mT
            score = torch.baddbmm(causal_bias(q.shape[1], seen, q), q, k_t) if causal else q @ k_t
            score.sub_(score.amax(-1, keepdim=True))
            p, entropy_NT[:, rows] = _softmax(score) if order is None else _power(score, order)
            torch.bmm(p, v_NSE[:, :seen], out=output_NTE[:, rows])
            probabilities.append(p)
        ctx.save_for_backward(q_NTE, k_NSE, v_NSE, output_NTE, entropy_NT, *probabilities)
        ctx.order, ctx.causal = order, causal
        ctx.set_materialize_grads(False)
        return output_NTE, entropy_NT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output_NTE: Tensor | None, d_entropy_NT: Tensor | None) -> tuple[Tensor | None, ...]:
        if d_output_NTE is None and d_entropy_NT is None:
            return None, None, None, None, None
        q_NTE, k_NSE, v_NSE, output_NTE, entropy_NT, *probabilities = ctx.saved_tensors
        d_q_NTE, d_k_NSE, d_v_NSE = torch.empty_like(q_NTE), torch.zeros_like(k_NSE), torch.zeros_like(v_NSE)
        for (rows, seen), p in zip(_blocks(q_NTE.shape[1], k_NSE.shape[1], ctx.causal), probabilities, strict=True):
            if d_output_NTE is None:
                gradient = torch.zeros_like(p)
            else:
                d_output = d_output_NTE[:, rows].contiguous()
                gradient = d_output @ v_NSE[:, :seen].mT
                gradient.sub_((d_output * output_NTE[:, rows]).sum(-1, keepdim=True))
                d_v_NSE[:, :seen].baddbmm_(p.mT, d_output)
            if d_entropy_NT is not None:
                g = d_entropy_NT[:, rows, None]
                gradient.sub_(g * entropy_NT[:, rows, None])
                # p log p is 0 where p is 0, so any finite logarithm serves there.
                gradient.addcmul_(p.clamp_min(torch.finfo(p.dtype).tiny).log_(), g, value=-1)
            d_score = gradient.mul_(p) if ctx.order is None else _power_backward(gradient, p, ctx.order)
            torch.bmm(d_score, k_NSE[:, :seen], out=d_q_NTE[:, rows])
            d_k_NSE[:, :seen].baddbmm_(d_score.mT, q_NTE[:, rows])
        return d_q_NTE, d_k_NSE, d_v_NSE, None, None


def _softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and row entropy log Z - sum p z of exp(z); z, with row maximum 0, is overwritten."""
    w = z.exp()
    total = w.sum(-1, keepdim=True)
    p = w.div_(total)
    return p, total.log_().squeeze(-1).sub_(z.mul_(p).sum(-1))


def _power(z: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Probabilities and row entropy log Z - sum p N log u of u^N, N = 2^order, u = max(0, 1 + z/N); z is overwritten."""
    u = z.div_(2**order).add_(1).clamp_min_(0)
    w = u * u
    for _ in range(order - 1):
        w.mul_(w)
    total = w.sum(-1, keepdim=True)
    p = w.div_(total)
    log_w = u.clamp_min_(torch.finfo(u.dtype).tiny).log_().mul_(2**order)
    return p, total.log_().squeeze(-1).sub_(log_w.mul_(p).sum(-1))


def _power_backward(gradient: Tensor, p: Tensor, order: int) -> Tensor:
    """dS from G and p. The largest probability is 1/Z, as u is 1 there."""
    largest = p.amax(-1, keepdim=True)
    root = p / largest
    gradient.mul_(largest)
    for _ in range(order):
        gradient.mul_(root.sqrt_())
    tied = (p == largest).to(p.dtype)
    return gradient.sub_(tied.mul_(gradient.sum(-1, keepdim=True) / tied.sum(-1, keepdim=True)))


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, order: int | None, causal: bool) -> tuple[Tensor, Tensor]:
    output_NTE, entropy_NT = _Attention.apply(q_BHTE.flatten(0, 1), k_BHSE.flatten(0, 1), v_BHSE.flatten(0, 1), order, causal)
    batch_and_heads = q_BHTE.shape[:2]
    return output_NTE.unflatten(0, batch_and_heads), entropy_NT.unflatten(0, batch_and_heads)


KERNEL = Kernel(name="analytic", run=_run)
