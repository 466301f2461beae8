"""The formulas of `hushlm.entropy.attention` written down and differentiated by autograd.

Slow and plain: what other kernels are tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hushlm.entropy.kernels.base import KernelImplementation, causal_bias

__all__ = ["KERNEL"]


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, order: int | None, causal: bool) -> tuple[Tensor, Tensor]:
    s_BHTS = (q_BHTE * scale_HT[..., None]) @ k_BHSE.mT
    if causal:
        s_BHTS = s_BHTS + causal_bias(q_BHTE.shape[2], k_BHSE.shape[2], s_BHTS)
    z_BHTS = s_BHTS - s_BHTS.amax(-1, keepdim=True)
    if order is None:
        w_BHTS = z_BHTS.exp()
        w_log_w_BHTS = w_BHTS * z_BHTS
    else:
        u_BHTS = (1 + z_BHTS / 2**order).clamp_min(0)
        w_BHTS = u_BHTS ** (2**order)
        # where(): the logarithm's gradient at 0 must never be formed, as 0 times infinity is NaN.
        w_log_w_BHTS = 2**order * w_BHTS * torch.where(u_BHTS > 0, u_BHTS, 1).log()
    total_BHT1 = w_BHTS.sum(-1, keepdim=True)
    p_BHTS = w_BHTS / total_BHT1
    entropy_nats_BHT = (total_BHT1.log() - w_log_w_BHTS.sum(-1, keepdim=True) / total_BHT1).squeeze(-1)
    return p_BHTS @ v_BHSE, entropy_nats_BHT


KERNEL = KernelImplementation(name="reference", run=_run)
