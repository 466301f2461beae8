"""What exchanging a model with transformers has in common for every family: refusals by name, weights each taken once, logits compared.

transformers is imported only when a function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.huggingface.taken_weights import TakenWeights, check_same_logits, fill
from hushlm.model.language_model import LanguageModel

__all__ = ["check_class", "hand_over", "refuse", "take_over", "transformers_class"]


def transformers_class(name: str) -> Any:
    """A class of transformers.

    Raises:
        ValueError: if transformers is missing.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError("Exchanging models with Hugging Face needs transformers: install hushlm[hf].") from None
    return getattr(transformers, name)


def check_class(hf_model: Any, *names: str) -> None:
    """Raises: ValueError if the model is of none of these classes of transformers, or transformers is missing."""
    if not isinstance(hf_model, tuple(map(transformers_class, names))):
        raise ValueError(f"Expected a transformers {' or '.join(names)}, not {type(hf_model).__name__}.")


def refuse(family: str, refusals: Mapping[str, bool]) -> None:
    """Raises: ValueError naming everything in `refusals` that is true of a model of this family."""
    if refused := [what for what, present in refusals.items() if present]:
        raise ValueError(f"This {family} cannot be taken over: {', '.join(refused)} has no equal here.")


def take_over(
    hf_model: Any,
    family: str,
    architecture: Architecture,
    sizes: Mapping[str, Any],
    blocks: Callable[[TakenWeights, ModelShape], dict[str, Tensor]],
) -> LanguageModel:
    """A `LanguageModel` with copies of the weights of a model of transformers, of the same type, on the same device.

    Both are run on a few tokens at the end, and their logits compared.

    Args:
        hf_model: the model.
        family: what it is called in error messages.
        architecture, sizes: what it is, and the fields of its `ModelShape` but vocabulary and head.
        blocks: takes every weight but embedding and head, under our names.

    Raises:
        ValueError: if a weight is missing, left over or of another shape or type, or the logits are not those of the config and weights.
    """
    embedding, head = hf_model.get_input_embeddings().weight, hf_model.get_output_embeddings()
    if not embedding.is_floating_point():
        raise ValueError(f"This {family} cannot be taken over: its weights are of type {embedding.dtype}; load them unquantised.")
    shape = ModelShape(vocabulary=hf_model.config.vocab_size, tied_head=head.weight is embedding, **sizes)
    model = LanguageModel(architecture, shape).to(device=embedding.device, dtype=embedding.dtype)
    weights = TakenWeights(hf_model.state_dict(), family)
    # transformers has called both differently.
    names = {id(module): name for name, module in hf_model.named_modules()}
    state = {"embedding.weight": weights.take(f"{names[id(hf_model.get_input_embeddings())]}.weight"), **blocks(weights, shape)}
    if shape.tied_head:
        weights.leave(f"{names[id(head)]}.weight")
    else:
        state["head.weight"] = weights.take(f"{names[id(head)]}.weight")
    weights.check_all_taken()
    fill(model, state, family)
    check_same_logits(model, hf_model, family)
    return model.train(hf_model.training)


def hand_over(model: LanguageModel, hf_model: Any, blocks: Mapping[str, Tensor]) -> Any:
    """A new model of transformers, filled with copies of the weights of a `LanguageModel`; `blocks` has all but embedding and head."""
    weight, ours = model.embedding.weight, model.state_dict()
    hf_model.to(device=weight.device, dtype=weight.dtype)
    names = {id(module): name for name, module in hf_model.named_modules()}
    ends = {f"{names[id(hf_model.get_input_embeddings())]}.weight": ours["embedding.weight"]}
    ends[f"{names[id(hf_model.get_output_embeddings())]}.weight"] = ours.get("head.weight", ours["embedding.weight"])
    with torch.no_grad():
        hf_model.load_state_dict({**blocks, **ends})
    return hf_model.train(model.training)
