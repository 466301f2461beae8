"""Cross-entropy, alone or with a teacher's distribution, that needs no second tensor of the logits' size: it writes the gradient over them.

GPT-2's logits of 1024 tokens are 206 MB. Torch's own function makes two more tensors of that size a step, fresh memory both.

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["DistilledLoss", "distilling_cross_entropy", "overwriting_cross_entropy"]

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
        logits_NV: the logits, contiguous in memory.
        targets_N: token ids.
        rows: what the sum is divided by, N for the mean.
    """
    if _may_overwrite(logits_NV):
        return _Overwriting.apply(logits_NV, targets_N, rows)
    return F.cross_entropy(logits_NV, targets_N, reduction="sum") / rows


class DistilledLoss(NamedTuple):
    """Scalars in nats, sums over N divided by `rows`; only `total` has a gradient.

    Attributes:
        total: (1 - w) cross_entropy + w tau^2 divergence.
        cross_entropy: the cross-entropy of the targets, at temperature 1.
        divergence: KL(teacher || student), both at temperature tau.
    """

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


class _Distilling(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor, rows: int, weight: float, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        overwritten_NV = logits_NV.detach()
        entropy_N, divergence_N = (logits_NV.new_empty(len(targets_N)) for _ in range(2))
        size = max(1, _SLICE_BYTES // (4 * logits_NV.shape[1]))
        parts = (tensor.split(size) for tensor in (overwritten_NV, teacher_NV, targets_N[:, None], entropy_N, divergence_N))
        for part_NV, teacher_part_NV, targets_N1, part_entropy_N, part_divergence_N in zip(*parts, strict=True):
            log_q_NV = part_NV.log_softmax(1)
            log_soft_q_NV = log_q_NV if temperature == 1 else (part_NV / temperature).log_softmax(1)
            log_p_NV = (teacher_part_NV / temperature).log_softmax(1)
            p_NV = log_p_NV.exp()
            part_entropy_N.copy_(-log_q_NV.gather(1, targets_N1).squeeze(1))
            part_divergence_N.copy_(log_p_NV.sub_(log_soft_q_NV).mul_(p_NV).sum(1))
            # The gradient: (1 - w) (q - target) + w tau (soft q - p); at a temperature of 1 both q are the same.
            torch.exp(log_q_NV, out=part_NV)
            if temperature == 1:
                part_NV.sub_(p_NV, alpha=weight)
            else:
                part_NV.mul_(1 - weight).add_(log_soft_q_NV.exp_().sub_(p_NV), alpha=weight * temperature)
            part_NV.scatter_add_(1, targets_N1, part_NV.new_full(targets_N1.shape, weight - 1)).mul_(1 / rows)
        ctx.save_for_backward(overwritten_NV)
        cross_entropy, divergence = entropy_N.sum() / rows, divergence_N.sum() / rows
        ctx.mark_non_differentiable(cross_entropy, divergence)
        return (1 - weight) * cross_entropy + weight * temperature**2 * divergence, cross_entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, *_: Any) -> tuple[Tensor, None, None, None, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV if d_total == 1 else gradient_NV * d_total, None, None, None, None, None


def distilling_cross_entropy(
    logits_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor, rows: int, *, weight: float, temperature: float
) -> DistilledLoss:
    """The loss of a student: (1 - w) cross-entropy + w tau^2 KL(softmax(teacher / tau) || softmax(logits / tau)).

    tau^2 keeps the gradient's size: that of the divergence falls with 1 / tau^2. Overwrites as `overwriting_cross_entropy` does.

    Args:
        logits_NV: the student's, contiguous.
        teacher_NV: the teacher's, float32 without gradient; left as they are.
        targets_N: token ids.
        rows: what the sums are divided by, N for means.
        weight: w, from 0 to 1.
        temperature: tau, above 0.
    """
    if _may_overwrite(logits_NV):
        return DistilledLoss(*_Distilling.apply(logits_NV, teacher_NV, targets_N, rows, weight, temperature))
    cross_entropy = F.cross_entropy(logits_NV, targets_N, reduction="sum") / rows
    log_q_NV, log_p_NV = ((logits / temperature).log_softmax(1) for logits in (logits_NV, teacher_NV))
    divergence = F.kl_div(log_q_NV, log_p_NV, reduction="sum", log_target=True) / rows
    total = (1 - weight) * cross_entropy + weight * temperature**2 * divergence
    return DistilledLoss(total, cross_entropy.detach(), divergence.detach())


def _may_overwrite(logits_NV: Tensor) -> bool:
    return logits_NV.requires_grad and logits_NV.device.type == "cpu" and logits_NV.dtype is torch.float32 and logits_NV.is_contiguous()
