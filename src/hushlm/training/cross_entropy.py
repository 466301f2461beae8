"""Cross-entropy that needs no second tensor of the logits' size: it writes the gradient over them.

GPT-2's logits of 1024 tokens are 206 MB. Torch's own function makes two more tensors of that size a step, fresh memory both.

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["overwriting_cross_entropy"]

_SLICE_BYTES = 4_000_000
"""Rows are taken in slices of about this size, so that the passes over a slice find it in the cache."""


class _Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, rows: int) -> Tensor:
        overwritten_NV = logits_NV.detach()
        loss_N = logits_NV.new_empty(len(targets_N))
        size = max(1, _SLICE_BYTES // (4 * logits_NV.shape[1]))
        for part_NV, targets_N1, part_loss_N in zip(
            overwritten_NV.split(size), targets_N[:, None].split(size), loss_N.split(size), strict=True
        ):
            own_N1, top_N1 = part_NV.gather(1, targets_N1), part_NV.amax(1, keepdim=True)
            total_N1 = part_NV.sub_(top_N1).exp_().sum(1, keepdim=True)
            part_loss_N.copy_((total_N1.log() + (top_N1 - own_N1)).squeeze(1))
            part_NV.mul_(1 / (rows * total_N1)).scatter_add_(1, targets_N1, torch.full_like(own_N1, -1 / rows))
        ctx.save_for_backward(overwritten_NV)
        return loss_N.sum() / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV if d_loss == 1 else gradient_NV * d_loss, None, None


def overwriting_cross_entropy(logits_NV: Tensor, targets_N: Tensor, rows: int) -> Tensor:
    """sum over N of -log softmax(logits)[target], divided by `rows`; nats, a scalar.

    Where gradients are recorded on a CPU in float32, the logits' memory is the gradient's afterwards: read them no more. They must not
    be what an operation before kept for its own backward pass; a matrix product keeps its factors only.

    Args:
        logits_NV: contiguous.
        targets_N: token ids.
        rows: what the sum is divided by, N for the mean.
    """
    if logits_NV.requires_grad and logits_NV.device.type == "cpu" and logits_NV.dtype is torch.float32 and logits_NV.is_contiguous():
        return _Overwriting.apply(logits_NV, targets_N, rows)
    return F.cross_entropy(logits_NV, targets_N, reduction="sum") / rows
