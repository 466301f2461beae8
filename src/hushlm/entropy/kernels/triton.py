"""The GPU kernel in Triton: streams over keys as `native` does, with `analytic`'s derivation.

Tested on a GPU, and in Triton's interpreter on a CPU (TRITON_INTERPRET=1, `tests/entropy/test_triton.py`). One program takes one block
of queries of one head, or, in the last of three kernels, one block of keys, so no sums race and results repeat.

Legend: B batch, T query tokens, S key tokens, H heads, E head width, N all heads of all sequences.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hushlm.entropy.kernels.base import Form, KernelImplementation

__all__ = ["KERNEL"]

QUERIES, KEYS = 32, 32
"""Rows and columns of a tile of scores. Triton's products need at least 16 of each, and a head width of 16. Larger tiles do not fit into a
multiprocessor's registers (`python tests/entropy/registers.py`), nor does this one with heads above 64: those take half the rows."""

WIDEST = 128
"""Entries of a head: wider ones do not fit either."""

PRECISION = "tf32x3"
"""Three products in TF32 for one in float32, 21 of its 24 bits: tensor cores have no float32, and entropies are to be exact."""


@torch.compiler.assume_constant_result
def _available(device: str) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    return device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


class _Attention(torch.autograd.Function):
    """q_NTE (scaled), k_NSE, v_NSE, contiguous -> output_NTE, entropy_nats_NT."""

    @staticmethod
    def forward(ctx: Any, q_NTE: Tensor, k_NSE: Tensor, v_NSE: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
        from hushlm.entropy.kernels.triton_code import forward

        heads, queries, width = q_NTE.shape
        output_NTE, rows_3NT = torch.empty_like(q_NTE), q_NTE.new_empty(3, heads, queries)
        sizes = {"queries": queries, "keys": k_NSE.shape[1], "width": width}
        shape = _shape(width, form, causal)
        forward[(_blocks(queries, shape["QUERIES"]), heads)](q_NTE, k_NSE, v_NSE, output_NTE, *rows_3NT, **sizes, **shape)
        ctx.save_for_backward(q_NTE, k_NSE, v_NSE, output_NTE, rows_3NT)
        ctx.sizes, ctx.shape = sizes, shape
        return output_NTE, rows_3NT[2].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output_NTE: Tensor, d_entropy_NT: Tensor) -> tuple[Tensor | None, ...]:
        from hushlm.entropy.kernels.triton_code import backward_keys, backward_queries

        q_NTE, k_NSE, v_NSE, output_NTE, rows_3NT = ctx.saved_tensors
        maximum_NT, total_NT, entropy_NT = rows_3NT
        d_output_NTE = (d_output_NTE / total_NT[..., None]).contiguous()
        # dL/dw = dO.v / Z + of_log log w + of_one
        of_log_NT = (-d_entropy_NT / total_NT).contiguous()
        of_one_NT = of_log_NT * (entropy_NT - total_NT.log()) - (d_output_NTE * output_NTE).sum(-1)
        d_q_NTE, d_k_NSE, d_v_NSE = torch.empty_like(q_NTE), torch.empty_like(k_NSE), torch.empty_like(v_NSE)
        share_NT = torch.empty_like(maximum_NT)
        tensors = (q_NTE, k_NSE, v_NSE, d_output_NTE, maximum_NT, of_log_NT, of_one_NT, share_NT)
        heads = q_NTE.shape[0]
        backward_queries[(_blocks(ctx.sizes["queries"], ctx.shape["QUERIES"]), heads)](*tensors, d_q_NTE, **ctx.sizes, **ctx.shape)
        backward_keys[(_blocks(ctx.sizes["keys"], ctx.shape["KEYS"]), heads)](*tensors, d_k_NSE, d_v_NSE, **ctx.sizes, **ctx.shape)
        return d_q_NTE, d_k_NSE, d_v_NSE, None, None


def _blocks(count: int, size: int) -> int:
    return (count + size - 1) // size


def _shape(width: int, form: Form, causal: bool) -> dict[str, Any]:
    """What a kernel is compiled for."""
    padded = max(16, 1 << (width - 1).bit_length())
    wide = padded > 64
    tile = {"QUERIES": max(16, QUERIES // 2) if wide else QUERIES, "KEYS": KEYS, "num_warps": 8 if wide else 4}
    return {"PADDED": padded, "ORDER": form.order or 0, "POWER": form.power, "CAUSAL": causal, "PRECISION": PRECISION, **tile}


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
    q_NTE, k_NSE, v_NSE = (x.flatten(0, 1).contiguous() for x in (q_BHTE * scale_HT[..., None], k_BHSE, v_BHSE))
    output_NTE, entropy_NT = _Attention.apply(q_NTE, k_NSE, v_NSE, form, causal)
    batch_and_heads = q_BHTE.shape[:2]
    return output_NTE.unflatten(0, batch_and_heads), entropy_NT.unflatten(0, batch_and_heads)


def _supports(q_BHTE: Tensor, order: int | None) -> bool:
    return q_BHTE.dtype is torch.float32 and q_BHTE.shape[3] <= WIDEST and (order is None or order < 16) and _available(q_BHTE.device.type)


KERNEL = KernelImplementation(name="triton", run=_run, supports=_supports)
