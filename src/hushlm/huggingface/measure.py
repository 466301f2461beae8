"""Head entropies of any causal language model of transformers on a text.

Legend: B batch, T tokens, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hushlm.huggingface.patched_attention import record_entropies, use_entropy_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["HeadEntropies", "measure_head_entropies", "open_hf_model"]


@dataclass(frozen=True)
class HeadEntropies:
    """What was measured.

    Attributes:
        head_entropy_nats_LH: mean row entropy of every head over all rows that count, float64.
        rows: that count: tokens, without padding.
    """

    head_entropy_nats_LH: Tensor
    rows: int


def measure_head_entropies(model: PreTrainedModel, batches: Iterable[Tensor | Mapping[str, Tensor]]) -> HeadEntropies:
    """Mean row entropy of every head. The model's mode and weights stay as they were; its attention is exchanged for an equal one.

    Args:
        model: any causal language model that uses the attention interface of transformers; grouped queries count as heads of their own.
        batches: token ids (B, T), or what a tokenizer returns for a padded batch ("input_ids", "attention_mask").

    Raises:
        ValueError: if there is no batch, or the model's attention cannot be exchanged.
    """
    use_entropy_attention(model)
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


def open_hf_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, in evaluation mode and float32.

    Args:
        name: a folder as `save_pretrained` writes it, a .gguf file, or the name of a model on the Hugging Face hub (or in its cache).

    Raises:
        ValueError: one sentence: transformers is missing, nothing is there, what is there is no causal language model, or it
            lacks weights, which would be drawn at random.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise ValueError("Opening a Hugging Face model needs transformers: pip install 'hushlm[hf]'.") from None
    path = Path(name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": name}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"There is no file {name}.")
        source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    elif not path.is_dir() and (path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise ValueError(f"{name} is no folder of a model and no name on the Hugging Face hub, which reads OWNER/MODEL.")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is raised below, in a sentence
    try:
        model, found = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise ValueError(f"{name} could not be opened as a causal language model: {first}.") from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} of the weights that a {type(model).__name__} has, for example {missing[0]}.")
    return model.eval(), tokenizer
