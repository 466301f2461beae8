"""The formulas of `hushlm.entropy.attention` written down and differentiated by autograd.

Slow and plain: what other kernels are tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hushlm.architectures import POWER_FLOOR
from hushlm.entropy.kernels.base import Form, KernelImplementation, causal_bias

__all__ = ["KERNEL"]


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
    s_BHTS = (q_BHTE * scale_HT[..., None]) @ k_BHSE.mT
    bias_TS = causal_bias(q_BHTE.shape[2], k_BHSE.shape[2], s_BHTS) if causal else s_BHTS.new_zeros(())
    w_BHTS, w_log_w_BHTS = _weights(s_BHTS, bias_TS, form)
    total_BHT1 = w_BHTS.sum(-1, keepdim=True)
    p_BHTS = w_BHTS / total_BHT1
    entropy_nats_BHT = (total_BHT1.log() - w_log_w_BHTS.sum(-1, keepdim=True) / total_BHT1).squeeze(-1)
    return p_BHTS @ v_BHSE, entropy_nats_BHT


def _weights(s_BHTS: Tensor, bias_TS: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The weights w, and w log w."""
    if form.power:
        assert form.order is not None
        w_BHTS = (1 + s_BHTS / 2**form.order) ** (2**form.order) + POWER_FLOOR
        w_log_w_BHTS = w_BHTS * w_BHTS.log()
        return torch.where(bias_TS == 0, w_BHTS, 0), torch.where(bias_TS == 0, w_log_w_BHTS, 0)
    s_BHTS = s_BHTS + bias_TS
    z_BHTS = s_BHTS - s_BHTS.amax(-1, keepdim=True)
    if form.order is None:
        w_BHTS = z_BHTS.exp()
        return w_BHTS, w_BHTS * z_BHTS
    u_BHTS = (1 + z_BHTS / 2**form.order).clamp_min(0)
    w_BHTS = u_BHTS ** (2**form.order)
    # where(): the logarithm's gradient at 0 must never be formed, as 0 times infinity is NaN.
    return w_BHTS, 2**form.order * w_BHTS * torch.where(u_BHTS > 0, u_BHTS, 1).log()


KERNEL = KernelImplementation(name="reference", run=_run)
