"""Head entropies of any causal language model of transformers, measured on batches of text.

Legend: B batch, T tokens, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hushlm.huggingface.patched_attention import record_entropies, use_entropy_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HeadEntropies", "measure_head_entropies"]


@dataclass(frozen=True)
class HeadEntropies:
    """The entropies of a model's heads.

    Attributes:
        head_entropy_nats_LH: the mean row entropy of every head over all rows that count, in float64.
        rows: how many rows count; one for each token that is no padding.
    """

    head_entropy_nats_LH: Tensor
    rows: int


def measure_head_entropies(model: PreTrainedModel, batches: Iterable[Tensor | Mapping[str, Tensor]]) -> HeadEntropies:
    """The mean row entropy of every head.

    The model's mode and weights stay as they were; its attention is exchanged for one that computes the same.

    Args:
        model: any causal language model that uses the attention interface of transformers; grouped queries count as heads of their own.
        batches: token ids (B, T), or what a tokenizer returns for a padded batch ("input_ids", "attention_mask").

    Raises:
        ValueError: if there is no batch, a token id lies outside the model's vocabulary, or the model's attention cannot be exchanged.
    """
    use_entropy_attention(model)
    vocabulary = model.get_input_embeddings().num_embeddings
    # The body without the head: no (B, T, V) logits.
    body = model.base_model
    training = model.training
    model.eval()
    total_LH: Tensor | None = None
    rows = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                inputs = {"input_ids": batch} if isinstance(batch, Tensor) else {key: batch[key] for key in ("input_ids", "attention_mask")}
                if inputs["input_ids"].numel() and not 0 <= int(inputs["input_ids"].max()) < vocabulary:
                    raise ValueError(
                        f"Token id {int(inputs['input_ids'].max())} is outside the model's vocabulary of {vocabulary}: "
                        "the tokenizer is not the model's own."
                    )
                with record_entropies() as record:
                    body(**{key: value.to(model.device) for key, value in inputs.items()}, use_cache=False)
                rows_LHN = record.rows_LHN()
                sum_LH = rows_LHN.double().sum(-1).cpu()
                total_LH = sum_LH if total_LH is None else total_LH + sum_LH
                rows += rows_LHN.shape[-1]
    finally:
        model.train(training)
    if total_LH is None or rows == 0:
        raise ValueError("There is no text to measure entropies on.")
    return HeadEntropies((total_LH / rows).clone(), rows)
