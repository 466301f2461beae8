"""Whether a model's numbers fit the fixed-point numbers of private inference: found on sample text, and said where they do not.

A product has twice the fraction bits until it is truncated, so that a sum of products must stay far below what a model of floating-point
numbers may reach. What reaches it in pretrained models is one number of the residual stream at the first token, which the norms read
squared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hushlm.model.language_model import LanguageModel
from hushlm.model.normalisation import LayerNorm
from hushlm.plan.engine_tiles import LARGEST_PRODUCT_BITS

__all__ = ["LargestNumber", "largest_number", "product_limit"]


@dataclass(frozen=True)
class LargestNumber:
    """The largest sum of products on some windows.

    Attributes:
        value: its size.
        what: what it is: the sum of squares inside a norm, or a module's output.
        module: the module's name.
        position: the token's place in its window.
        entry: the largest number that goes into it.
    """

    value: float
    what: str
    module: str
    position: int
    entry: float


def product_limit(fraction_bits: int = 18) -> float:
    """What a sum of products must stay below."""
    return 2.0 ** (LARGEST_PRODUCT_BITS - 2 * fraction_bits)


@torch.no_grad()
def largest_number(model: LanguageModel, windows_NT: Tensor, batch: int = 4) -> LargestNumber:
    """Run the model on windows and find the largest sum of products of norms and linear maps."""
    found = LargestNumber(0.0, "", "", 0, 0.0)

    def note(what: str, name: str, sums_BT: Tensor, x_BTN: Tensor) -> None:
        nonlocal found
        value, place = sums_BT.flatten().max(0)
        if not float(value) <= found.value:  # NaN counts
            position, row = int(place) % sums_BT.shape[1], x_BTN.flatten(0, 1)[int(place)]
            found = LargestNumber(float(value), what, name, position, float(row.abs().max()))

    def of_norm(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x_BTD = inputs[0]
            y_BTD = x_BTD - x_BTD.mean(-1, keepdim=True) if isinstance(module, LayerNorm) else x_BTD
            note("sum of squares", name, y_BTD.square().sum(-1), x_BTD)

        return hook

    def of_linear(name: str) -> Callable[..., None]:
        return lambda _, inputs, y_BTN: note("output", name, y_BTN.abs().amax(-1), inputs[0])

    with _hooks(model, of_norm, of_linear):
        for part_BT in windows_NT.split(batch):
            model(part_BT)
    return found


@contextmanager
def _hooks(model: nn.Module, of_norm: Callable[..., Any], of_linear: Callable[..., Any]) -> Iterator[None]:
    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.RMSNorm | nn.LayerNorm):
            handles.append(module.register_forward_pre_hook(of_norm(name, module)))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(of_linear(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
