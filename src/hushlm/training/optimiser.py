"""AdamW with weight decay where it belongs, and the schedules as pure functions of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hushlm.config import EntropyConfig, TrainingConfig
from hushlm.training.team import shard_like

__all__ = ["learning_rate", "make_optimiser", "optimiser_tensors", "regulariser_weight", "restore_optimiser", "weight_decays"]

_MATRIX = re.compile(r"(.+\.)?(weight|parametrizations\.weight\.(original|original1))")
"""A linear layer's or an embedding's weight; under a weight or spectral norm its direction. original0 is weight norm's gain."""


def weight_decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter decays: the matrices of linear layers and embeddings.

    Not gains and biases, temperatures, thresholds, alpha and beta: pulling those to 0 would change what they mean (a
    temperature of 0 is a one-hot head).
    """
    return parameter.ndim == 2 and _MATRIX.fullmatch(name) is not None


def make_optimiser(modules: Mapping[str, nn.Module], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW in two groups: matrices with `config.weight_decay`, everything else without.

    Args:
        modules: what is trained, by a prefix for its parameter names: {"model": ..., "regulariser": ...}.
        config: betas, weight decay and the initial learning rate.
    """
    decay: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            (decay if weight_decays(name, parameter) else plain).append((f"{prefix}.{name}", parameter))
    # Sharded parameters, if any, are groups of their own: one call of the fused kernel takes one kind.
    groups = [
        {"params": [(name, p) for name, p in members if isinstance(p, DTensor) == sharded], "weight_decay": weight_decay}
        for members, weight_decay in ((decay, config.weight_decay), (plain, 0.0))
        for sharded in (False, True)
    ]
    # fused: one kernel over all parameters; the steps of small models are bound by the calls, not by the arithmetic.
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=True)


def optimiser_tensors(optimiser: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors, "exp_avg/model.embedding.weight" and so on: a form that needs no pickle."""
    return {
        f"{key}/{name}": value
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in optimiser.state[parameter].items()
    }


def restore_optimiser(optimiser: torch.optim.AdamW, tensors: Mapping[str, torch.Tensor]) -> None:
    """Inverse of `optimiser_tensors`, on an optimiser over the same parameters.

    Raises:
        ValueError: if a tensor belongs to no parameter, or has another shape.
    """
    parameters = [
        (name, parameter) for group in optimiser.param_groups for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
    known = {name: (index, parameter) for index, (name, parameter) in enumerate(parameters)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for label, tensor in tensors.items():
        key, _, name = label.partition("/")
        if name not in known or (key != "step" and tensor.shape != known[name][1].shape):
            raise ValueError(f"The saved optimiser state {label!r} does not fit the model: the checkpoint is another architecture's.")
        state.setdefault(known[name][0], {})[key] = tensor if key == "step" else shard_like(tensor, known[name][1])
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


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
