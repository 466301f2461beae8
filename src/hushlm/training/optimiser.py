"""AdamW or Muon, with weight decay where it belongs, and the schedules as pure functions of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hushlm.config import EntropyConfig, TrainingConfig
from hushlm.training.team import shard_like

__all__ = [
    "Optimiser",
    "is_block_matrix",
    "learning_rate",
    "make_optimiser",
    "optimiser_tensors",
    "regulariser_weight",
    "restore_optimiser",
    "weight_decays",
]

_MATRIX = re.compile(r"(.+\.)?(weight|parametrizations\.weight\.(original|original1))")
"""A linear layer's or an embedding's weight; under a weight or spectral norm its direction. original0 is weight norm's gain."""


class Optimiser:
    """One or two of torch's optimisers, over different parameters, that step as one.

    Attributes:
        parts: torch's own; their groups have "param_names".
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts; a learning rate is changed here."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for part in self.parts:
            part.step()


def weight_decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter decays: the matrices of linear layers and embeddings.

    Not gains and biases, temperatures, thresholds, alpha and beta: pulling those to 0 would change what they mean (a
    temperature of 0 is a one-hot head).
    """
    return parameter.ndim == 2 and _MATRIX.fullmatch(name) is not None


def is_block_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is the matrix of a block's linear layer, by its name in the model: what Muon is made for.

    Not embedding, positions and head, whose rows belong to one token or position each.
    """
    return name.startswith("blocks.") and weight_decays(name, parameter)


def make_optimiser(modules: Mapping[str, nn.Module], config: TrainingConfig) -> Optimiser:
    """AdamW in two groups: matrices with `config.weight_decay`, everything else without. With "muon" the blocks' matrices
    (`is_block_matrix`) go to torch's Muon instead, with the same weight decay; what is left stays with AdamW in the same two groups.

    Muon makes the singular values of an update about 1; times 0.2 sqrt(max(rows, columns)) its entries' RMS is the 0.2 usual with
    AdamW, so one learning rate serves both (Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982).

    Args:
        modules: what is trained, by a prefix for its parameter names: {"model": ..., "regulariser": ...}.
        config: optimiser, betas, weight decay and the initial learning rate.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    decay: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            chosen = decay if weight_decays(name, parameter) else plain
            if config.optimiser == "muon" and is_block_matrix(name, parameter):
                chosen = matrices
            chosen.append((f"{prefix}.{name}", parameter))
    # Sharded parameters, if any, are groups of their own: one call of the fused kernel takes one kind.
    groups = [
        {"params": [(name, p) for name, p in members if isinstance(p, DTensor) == sharded], "weight_decay": weight_decay}
        for members, weight_decay in ((decay, config.weight_decay), (plain, 0.0))
        for sharded in (False, True)
    ]
    # fused: one kernel over all parameters; the steps of small models are bound by the calls, not by the arithmetic.
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=True)
    if not matrices:
        return Optimiser(adamw)
    muon = torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimiser(adamw, muon)


def optimiser_tensors(optimiser: Optimiser) -> dict[str, torch.Tensor]:
    """The state as named tensors, "exp_avg/model.embedding.weight" and so on: a form that needs no pickle."""
    return {
        f"{key}/{name}": value
        for part in optimiser.parts
        for group in part.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in part.state[parameter].items()
    }


def restore_optimiser(optimiser: Optimiser, tensors: Mapping[str, torch.Tensor]) -> None:
    """Inverse of `optimiser_tensors`, on an optimiser over the same parameters.

    Raises:
        ValueError: if a tensor belongs to no parameter, or has another shape.
    """
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimiser.parts]
    known: dict[str, tuple[int, int, nn.Parameter]] = {}
    for which, part in enumerate(optimiser.parts):
        members = [pair for group in part.param_groups for pair in zip(group["param_names"], group["params"], strict=True)]
        known |= {name: (which, index, parameter) for index, (name, parameter) in enumerate(members)}
    for label, tensor in tensors.items():
        key, _, name = label.partition("/")
        if name not in known or (key != "step" and tensor.shape != known[name][2].shape):
            raise ValueError(f"The saved optimiser state {label!r} does not fit the model: the checkpoint is another architecture's.")
        which, index, parameter = known[name]
        states[which].setdefault(index, {})[key] = tensor if key == "step" else shard_like(tensor, parameter)
    for part, state in zip(optimiser.parts, states, strict=True):
        part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of update `step`, 0 <= step < config.steps.

    Linear warm-up, peak * (step + 1) / warmup_steps; then a half cosine from the peak down to
    peak * final_learning_rate_fraction at the last step.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    floor = config.final_learning_rate_fraction
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def regulariser_weight(step: int, steps: int, config: EntropyConfig) -> float:
    """lambda of update `step`: from `weight` linearly to 0 at `weight_end_fraction` of the steps, 0 from there on; constant for None."""
    if config.weight_end_fraction is None:
        return config.weight
    return config.weight * max(0.0, 1 - step / (steps * config.weight_end_fraction))
