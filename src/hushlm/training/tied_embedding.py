"""The gradient of looking tokens up in a table that is the head as well.

Torch's own is a table of its own, zero but for the rows of the batch's tokens, and then added to the head's gradient: for GPT-2's 154 MB
that was 4% of a step of 2048 tokens. This one holds the batch's rows only, which autograd adds into the head's, with the same rounding.

Legend: B batch, T tokens, D width, U distinct tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["look_up"]


class _RowsOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, tokens_BT: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_BT)
        ctx.shape = table_VD.shape
        return functional.embedding(tokens_BT, table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTD: Tensor) -> tuple[Tensor, None]:
        (tokens_BT,) = ctx.saved_tensors
        distinct_U, place_N = torch.unique(tokens_BT.flatten(), return_inverse=True)
        # A token's occurrences are summed in the batch's order before they meet the head's gradient, as in torch's dense form.
        rows_UD = gradient_BTD.new_zeros(len(distinct_U), ctx.shape[1]).index_add_(0, place_N, gradient_BTD.flatten(0, 1))
        return torch.sparse_coo_tensor(distinct_U[None], rows_UD, ctx.shape, is_coalesced=True, check_invariants=False), None


def look_up(embedding: nn.Embedding, tokens_BT: Tensor) -> Tensor:
    """Rows of the table, B x T x D. Its gradient is sparse: for a table that gets a dense one as well, in the same backward pass."""
    if not (torch.is_grad_enabled() and embedding.weight.requires_grad):
        return functional.embedding(tokens_BT, embedding.weight)
    rows_BTD: Tensor = _RowsOnly.apply(embedding.weight, tokens_BT)
    return rows_BTD
