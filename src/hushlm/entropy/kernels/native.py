"""The CPU kernel in C (`native/`): streams over keys, keeps O(T) numbers a row for the backward pass, takes any strides.

The derivation is `analytic`'s; scores are computed again in the backward pass. float32 only; the same bytes for any number of
threads on one processor. Legend: B batch, T query tokens, S key tokens, H heads, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hushlm.entropy.kernels.base import Form, KernelImplementation
from hushlm.entropy.kernels.library import Problem, available, call, strided

__all__ = ["KERNEL"]


def _problem(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, order: int, power: bool, causal: bool) -> Problem:
    batch, heads, queries, width = q_BHTE.shape
    problem = Problem(batch=batch, heads=heads, queries=queries, keys=k_BHSE.shape[2], width=width, order=order, power=power, causal=causal)
    problem.q, problem.k, problem.v = strided(q_BHTE), strided(k_BHSE), strided(v_BHSE)
    problem.scale, problem.scale_step = scale_HT.data_ptr(), scale_HT.stride()
    return problem


def _tokens_first(like_BHTE: Tensor) -> Tensor:
    """An empty (B, H, T, E) that lies in memory as (B, T, H, E): the projections around attention then read and write it in place."""
    batch, heads, tokens, width = like_BHTE.shape
    return like_BHTE.new_empty(batch, tokens, heads, width).transpose(1, 2)


@torch.library.custom_op("hushlm::attention", mutates_args=(), device_types="cpu")
def _forward(
    q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, order: int, power: bool, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, entropy, and what the backward pass needs: row maximum and total (2, B, H, T), first maximum and ties (2, B, H, T)."""
    output_BHTE, entropy_BHT, rows_2BHT, ties_2BHT = _forward_shapes(q_BHTE, k_BHSE, v_BHSE, scale_HT, order, power, causal)
    problem = _problem(q_BHTE, k_BHSE, v_BHSE, scale_HT, order, power, causal)
    problem.output, problem.entropy = strided(output_BHTE), entropy_BHT.data_ptr()
    problem.maximum, problem.total = (row.data_ptr() for row in rows_2BHT)
    if order and not power:
        problem.first, problem.ties = (row.data_ptr() for row in ties_2BHT)
    call(problem, backward=False)
    return output_BHTE, entropy_BHT, rows_2BHT, ties_2BHT


@_forward.register_fake
def _forward_shapes(
    q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, order: int, power: bool, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = q_BHTE.shape[:3]
    ties_2BHT = q_BHTE.new_empty((2, *rows) if order and not power else (0,), dtype=torch.int32)
    return _tokens_first(q_BHTE), q_BHTE.new_empty(rows), q_BHTE.new_empty((2, *rows)), ties_2BHT


@torch.library.custom_op("hushlm::attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    d_output_BHTE: Tensor | None,
    d_entropy_BHT: Tensor | None,
    q_BHTE: Tensor,
    k_BHSE: Tensor,
    v_BHSE: Tensor,
    scale_HT: Tensor,
    output_BHTE: Tensor,
    entropy_BHT: Tensor,
    rows_2BHT: Tensor,
    ties_2BHT: Tensor,
    order: int,
    power: bool,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, and of the scale by row (B, H, T)."""
    gradients = _backward_shapes(
        d_output_BHTE, d_entropy_BHT, q_BHTE, k_BHSE, v_BHSE, scale_HT, output_BHTE, entropy_BHT, rows_2BHT, ties_2BHT, order, power, causal
    )
    problem = _problem(q_BHTE, k_BHSE, v_BHSE, scale_HT, order, power, causal)
    problem.output, problem.entropy = strided(output_BHTE), entropy_BHT.data_ptr()
    problem.maximum, problem.total = (row.data_ptr() for row in rows_2BHT)
    if order and not power:
        problem.first, problem.ties = (row.data_ptr() for row in ties_2BHT)
    if d_output_BHTE is not None:
        d_output_BHTE = _last_contiguous(d_output_BHTE)
        problem.d_output = strided(d_output_BHTE)
    if d_entropy_BHT is not None:
        d_entropy_BHT = d_entropy_BHT.contiguous()
        problem.d_entropy = d_entropy_BHT.data_ptr()
    problem.d_q, problem.d_k, problem.d_v = (strided(gradient) for gradient in gradients[:3])
    problem.d_scale = gradients[3].data_ptr()
    call(problem, backward=True)
    return gradients


@_backward.register_fake
def _backward_shapes(
    d_output_BHTE: Tensor | None,
    d_entropy_BHT: Tensor | None,
    q_BHTE: Tensor,
    k_BHSE: Tensor,
    v_BHSE: Tensor,
    scale_HT: Tensor,
    output_BHTE: Tensor,
    entropy_BHT: Tensor,
    rows_2BHT: Tensor,
    ties_2BHT: Tensor,
    order: int,
    power: bool,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _tokens_first(q_BHTE), _tokens_first(k_BHSE), _tokens_first(v_BHSE), q_BHTE.new_empty(q_BHTE.shape[:3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.order, ctx.power, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_output_BHTE: Tensor | None, d_entropy_BHT: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if d_output_BHTE is None and d_entropy_BHT is None:
        return (None,) * 7
    d_q_BHTE, d_k_BHSE, d_v_BHSE, d_scale_BHT = _backward(
        d_output_BHTE, d_entropy_BHT, *ctx.saved_tensors, ctx.order, ctx.power, ctx.causal
    )
    return d_q_BHTE, d_k_BHSE, d_v_BHSE, d_scale_BHT.sum(0), None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _run(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, scale_HT: Tensor, form: Form, causal: bool) -> tuple[Tensor, Tensor]:
    heads, queries = q_BHTE.shape[1:3]
    q_BHTE, k_BHSE, v_BHSE = map(_last_contiguous, (q_BHTE, k_BHSE, v_BHSE))
    output_BHTE, entropy_nats_BHT, _, _ = _forward(
        q_BHTE, k_BHSE, v_BHSE, scale_HT.expand(heads, queries), form.order or 0, form.power, causal
    )
    return output_BHTE, entropy_nats_BHT


def _supports(q_BHTE: Tensor, order: int | None) -> bool:
    return q_BHTE.device.type == "cpu" and q_BHTE.dtype is torch.float32 and (order is None or order < 16) and available()


KERNEL = KernelImplementation(name="native", run=_run, supports=_supports)
