"""Weights taken over from a model of transformers: each one exactly once, and none left behind unnoticed.

A state dict tells more than a config: a bias on the head, adapter layers or quantised weights show in its names, types and shapes. Whatever
does not show there (a replaced activation, a forward method of its own) shows in the logits, which are compared at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hushlm.huggingface.patched_attention import REGULARISER
from hushlm.model.language_model import LanguageModel

__all__ = ["TakenWeights", "check_same_logits", "fill"]

_SAMPLE_TOKENS = 8
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}
"""Largest difference of logits by type, as a share of their standard deviation."""


class TakenWeights:
    """A state dict from which every entry has to be taken.

    Args:
        state: names and tensors, as `hf_model.state_dict()` returns them.
        family: what the model is called in error messages.
    """

    def __init__(self, state: dict[str, Any], family: str) -> None:
        self._family, self._taken = family, set[str]()
        # The thresholds of `EntropyTrainer` act in training only.
        self._state = {name: value for name, value in state.items() if not name.startswith(f"{REGULARISER}.")}

    def take(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ValueError: if there is none, or its numbers are not floating-point.
        """
        tensor = self._state.get(name)
        if tensor is None:
            near = [other for other in self._state if other.startswith(name.rpartition(".")[0] + ".")]
            instead = f" (there is {near[0]})" if near else ""
            raise ValueError(f"This {self._family} cannot be taken over: it has no {name}{instead}. {_ADVICE}")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"This {self._family} cannot be taken over: {name} is of type {kind}. {_ADVICE}")
        self._taken.add(name)
        return tensor

    def leave(self, name: str) -> None:
        """Leave an entry behind that is the same tensor as one that was taken, as a tied head is."""
        self._taken.add(name)

    def check_all_taken(self) -> None:
        """Refuse to leave anything behind.

        Raises:
            ValueError: naming an entry that nothing has taken, or two types of numbers.
        """
        if left := [name for name in self._state if name not in self._taken]:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ValueError(f"This {self._family} cannot be taken over: {left[0]}{more} has no equal here. {_ADVICE}")
        types = {tensor.dtype for tensor in self._state.values()}
        if len(types) > 1:
            names = ", ".join(sorted(map(str, types)))
            raise ValueError(f"This {self._family} cannot be taken over: its weights are of several types ({names}); convert it to one.")


_ADVICE = "Merge adapters into the model first (merge_and_unload of peft), load quantised weights unquantised, and remove added layers."


def fill(model: LanguageModel, state: dict[str, Tensor], family: str) -> None:
    """Load weights under our names.

    Raises:
        ValueError: naming the first one whose shape is not that of the config.
    """
    for name, parameter in model.state_dict().items():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"This {family} cannot be taken over: its config asks for {name} of shape {tuple(parameter.shape)}, but the weights have "
                f"{tuple(state[name].shape)}."
            )
    model.load_state_dict(state)


@torch.no_grad()
def check_same_logits(ours: LanguageModel, theirs: Any, family: str) -> None:
    """Run both models on a few tokens: the last proof that nothing was overlooked.

    Raises:
        ValueError: if the logits differ by more than rounding explains.
    """
    weight = ours.embedding.weight
    if weight.is_meta:
        return
    length = min(_SAMPLE_TOKENS, ours.shape.context)
    tokens = torch.arange(length, device=weight.device)[None] * 7919 % ours.shape.vocabulary
    modes = ours.training, theirs.training
    try:
        ours.eval(), theirs.eval()
        expected, found = theirs(tokens, use_cache=False).logits.double(), ours(tokens).logits_BTV.double()
    finally:
        ours.train(modes[0]), theirs.train(modes[1])
    spread = float(expected.std())
    difference = float((found - expected).abs().max())
    if difference > _TOLERANCE[weight.dtype] * max(spread, torch.finfo(torch.float32).eps):
        raise ValueError(
            f"This {family} cannot be taken over: it computes something else than its config and weights say (a logit differs by "
            f"{difference:.2g}, where logits have a standard deviation of {spread:.2g})."
        )
