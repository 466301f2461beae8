"""Models for the private room's tests: random weights far from their initialisation, so that nothing is accidentally zero."""

from __future__ import annotations

import numpy as np
import torch

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.model import LanguageModel

SHAPE = ModelShape(layers=6, heads=4, width=32, context=64, vocabulary=64)
SMALL = ModelShape(layers=2, heads=2, width=16, context=32, vocabulary=32)
MANY_IDS = ModelShape(layers=1, heads=2, width=32, context=32, vocabulary=6000)
"""So many that prepared answers look a prompt up in buckets."""


def random_model(architecture: Architecture, shape: ModelShape = SHAPE, seed: int = 1, spread: float = 0.05) -> LanguageModel:
    """In float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    model = LanguageModel(architecture, shape, initial_temperature=0.7, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def arrays(model: LanguageModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.plain_state().items()}


@torch.no_grad()
def next_logits(model: LanguageModel, tokens: list[int]) -> np.ndarray:
    """Of the last position, (V,)."""
    return model(torch.tensor([tokens])).logits_BTV[0, -1].numpy()
