"""Entropy attention as an attention implementation of transformers, and a record of the entropies it sees.

transformers lets a model's attention be exchanged by name. Ours computes the same output as the library's "sdpa" and "eager", and beside
it the exact entropy of every attention row. Any model written against that interface (GPT-2, GPT-NeoX, LLaMA with grouped queries, ...)
can therefore report its entropies, with gradients, and no attention matrix has to be handed out:

    use_entropy_attention(model)
    with record_entropies() as record:
        model(**batch)
    record.rows_LHN()

Without a mask and dropout, or with padding behind the text, the kernels of `hushlm.entropy` run. With padding before the text, with
dropout, with a position bias, or with a mask of another form (sliding windows, packed sequences), the T x S probabilities are kept for the
backward pass. No logarithm is taken of them: H = logsumexp(s) - sum_j p_j s_j.

Legend: B batch, T query tokens, S key tokens, H heads, G key-value heads, E head width, L layers, N rows that count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hushlm.entropy import entropy_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ENTROPY_ATTENTION", "REGULARISER", "EntropyRecord", "active_record", "record_entropies", "use_entropy_attention"]

ENTROPY_ATTENTION = "hush_entropy"
"""Name of the implementation, as in `from_pretrained(..., attn_implementation=ENTROPY_ATTENTION)` once it is registered."""

REGULARISER = "entropy_regulariser"
"""Name of the module that `EntropyTrainer` adds to a model."""

_MASKED_SCORE = -1e30
_record: ContextVar[EntropyRecord | None] = ContextVar("record", default=None)


class EntropyRecord:
    """Row entropies of one forward pass, by layer.

    A row counts if its query may attend to itself; rows of padding may not, and are left out.

    Args:
        needs_gradient: refuse entropies that were computed without recording operations for the backward pass.
    """

    def __init__(self, *, needs_gradient: bool = False) -> None:
        self._needs_gradient = needs_gradient
        self._entropy_nats_BHT: dict[int, Tensor] = {}
        self._counts_BT: Tensor | None = None

    def add(self, layer: int, entropy_nats_BHT: Tensor, counts_BT: Tensor | None) -> None:
        """Store one layer's entropies.

        Args:
            layer: its number in the model.
            entropy_nats_BHT: the entropy of every row.
            counts_BT: which rows count, or None for all of them.

        Raises:
            ValueError: if the layer was recorded before, or a gradient is needed and none can be had.
        """
        if layer in self._entropy_nats_BHT:
            raise ValueError("Entropies of a second forward pass: open a new record for each pass.")
        if self._needs_gradient and not torch.is_grad_enabled():
            raise ValueError(
                "The entropies have no gradient, so the penalty would train nothing: reentrant activation checkpointing runs the model's "
                'blocks without recording gradients. Set activation_checkpointing_kwargs={"use_reentrant": False}.'
            )
        self._entropy_nats_BHT[layer] = entropy_nats_BHT
        self._counts_BT = counts_BT

    def rows_LHN(self) -> Tensor:
        """Entropies in nats of the rows that count, with their gradient; N <= B T.

        Raises:
            ValueError: if nothing was recorded, or layers differ in their number of heads.
        """
        if not self._entropy_nats_BHT:
            raise ValueError(
                "No attention was recorded: call use_entropy_attention(model) first; if that was done, the model does not use the "
                "attention interface of transformers."
            )
        layers = [self._entropy_nats_BHT[layer] for layer in sorted(self._entropy_nats_BHT)]
        if len({entropy.shape for entropy in layers}) > 1:
            raise ValueError("Layers with different numbers of heads or tokens have no common L x H table of entropies.")
        entropy_nats_LHBT = torch.stack([entropy.to(layers[0].device).transpose(0, 1) for entropy in layers])
        if self._counts_BT is None:
            return entropy_nats_LHBT.flatten(2)
        return entropy_nats_LHBT[:, :, self._counts_BT.to(entropy_nats_LHBT.device)]


@contextmanager
def record_entropies(*, needs_gradient: bool = False) -> Iterator[EntropyRecord]:
    """Record the row entropies of one forward pass made inside the `with` block, in this thread.

    Args:
        needs_gradient: raise a ValueError in the forward pass if its entropies would have no gradient, as under reentrant activation
            checkpointing.
    """
    record = EntropyRecord(needs_gradient=needs_gradient)
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


def active_record() -> EntropyRecord | None:
    """The record of the `with` block that this thread is in."""
    return _record.get()


def use_entropy_attention(model: PreTrainedModel) -> None:
    """Exchange a model's attention for one that knows its entropies; what the model computes stays the same, up to rounding.

    Raises:
        ValueError: if the model does not let its attention be exchanged, or is no decoder.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ENTROPY_ATTENTION, _attend)
    AttentionMaskInterface.register(ENTROPY_ATTENTION, sdpa_mask)  # None where the mask is causal and no more, else allowed (B, 1, T, S)
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model._can_set_attn_implementation():
        raise ValueError(f"{name} does not let its attention be exchanged: its entropies cannot be measured.")
    model.set_attn_implementation(ENTROPY_ATTENTION)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: (B, H, T, E), (B, G, S, E), (B, G, S, E) -> (B, T, H, E), and no attention weights.

    Raises:
        ValueError: for attention that is neither causal nor masked, capped scores, or sinks.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal or softcap is not None or s_aux is not None:
        raise ValueError(
            f"{type(module).__name__} has attention of a kind whose entropy is not defined here (two-way, capped or with sinks)."
        )
    query, key, value = _of_one_type(query, key, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    counts_BT, bias = None, None
    plain = position_bias is None and value.shape[-1] == query.shape[-1]
    if attention_mask is not None:
        bias = _bias(attention_mask, key)
        allowed = bias > _MASKED_SCORE / 2
        own_BT = allowed[:, 0].diagonal(key.shape[2] - query.shape[2], dim1=-2, dim2=-1)
        counts_BT = own_BT.expand(query.shape[0], -1)
        # With padding behind the text, as training pads, the rows that count see what they would see without a mask.
        plain = plain and bool(((allowed == _causal(query, key)) | ~own_BT[:, None, :, None]).all())
    if plain and dropout == 0.0:
        ours = math.sqrt(query.shape[-1])  # entropy_attention divides by it
        output_BHTE, entropy_nats_BHT = entropy_attention(query * (scaling * ours), key, value)
    else:
        bias = bias if bias is not None else _bias(_causal(query, key)[None, None], key)
        if position_bias is not None:
            bias = bias + position_bias.float()
        output_BHTE, entropy_nats_BHT = _masked_attention(query * scaling, key, value, bias, dropout)
    record = _record.get()
    if record is not None:
        record.add(int(module.layer_idx), entropy_nats_BHT, counts_BT)  # type: ignore[arg-type]
    return output_BHTE.transpose(1, 2).contiguous(), None


def _of_one_type(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in the type that PyTorch's own attention computes in.

    Under autocast that is autocast's type, whatever the inputs have: rotary positions make float32 of queries and keys and leave the values
    in half precision. Float64 is left alone, as autocast leaves it. Outside autocast mixed inputs are widened to their common type.
    """
    device = query.device.type
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    if dtype is not torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """(T, S): the last query sees every key."""
    queries, keys = query.shape[2], key.shape[2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)


def _bias(mask: Tensor, key: Tensor) -> Tensor:
    """What is added to the scores, (B or 1, H or 1, T, S), float32: 0 where a key may be seen, `_MASKED_SCORE` where not."""
    mask = mask[..., : key.shape[2]]
    if mask.dtype is not torch.bool:
        return mask.float().clamp_min(_MASKED_SCORE)
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, _MASKED_SCORE)


def _masked_attention(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, bias: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Softmax attention under any mask, dropout acting on the output alone; the entropy is that of the whole row."""
    with torch.autocast(q_BHTE.device.type, enabled=False):
        z = q_BHTE.float() @ k_BHSE.float().mT + bias
    z = z - z.detach().amax(-1, keepdim=True)  # neither p nor H sees a shift
    p_BHTS = z.softmax(-1)
    # p is 0 where z is about -1e30: their product is 0, and so is its gradient.
    entropy_nats_BHT = (z.logsumexp(-1) - (p_BHTS * z).sum(-1)).clamp_min(0)
    return functional.dropout(p_BHTS.to(v_BHSE.dtype), dropout) @ v_BHSE, entropy_nats_BHT
