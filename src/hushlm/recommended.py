"""Which model should I use? The models that came out of the contests of perplexity against private bytes and seconds, at GPT-2 small's
scale.

`hushlm frontier run` trained and measured every one of them at two smaller scales, where its sizes are in the same proportion to the
baseline's. They were chosen on the validation split and measured on the test split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.shapes import GPT2_SMALL, proportional

__all__ = ["RECOMMENDED", "SCORE_PENALTY", "TRAINING", "Recommendation", "training_of"]


@dataclass(frozen=True)
class Recommendation:
    """A model of a name, with the training that it was found with.

    Attributes:
        name: what it is called, for example Hush-S.
        purpose: what it is good for, in one phrase.
        architecture: the name of its architecture.
        shape: its sizes at GPT-2 small's scale.
        training: the settings that differ from the defaults and came out of the contest, as (dotted name, value).
    """

    name: str
    purpose: str
    architecture: str
    shape: ModelShape
    training: tuple[tuple[str, Any], ...] = ()

    def changes(self, base: ModelShape) -> tuple[tuple[str, Any], ...]:
        """The settings of this model beside a baseline of another size, as (dotted name, value).

        Layers, heads and width are in the same proportion to the baseline's as they are here to GPT-2 small's.

        Raises:
            ValueError: if a size has no whole counterpart there.
        """
        sizes = {
            name: proportional(getattr(self.shape, name), getattr(GPT2_SMALL, name), getattr(base, name), name)
            for name in ("layers", "heads", "width")
        }
        sizes["ffn_multiple"] = self.shape.ffn_multiple
        return (*((f"shape.{name}", size) for name, size in sizes.items() if size != getattr(base, name)), *self.training)


TRAINING = (
    ("training.optimiser", "muon"),
    ("training.weight_decay", 0.03),
    ("training.init_std", 0.014),
    ("training.residual_init", 0.5),
    ("entropy.initial_temperature", 0.8),
)
"""The training of every recommended model, beside its learning rate."""

SCORE_PENALTY = 0.1
"""Of every model with a power kernel, `training.score_penalty`: at micro it takes the largest mean weight of a row from 2^15.9 to 2^8.7
(PS3(th,qk)+LN+Q, seed 0; docs/kernels.md)."""


def training_of(architecture: str) -> tuple[tuple[str, Any], ...]:
    """The training of a model of the contests: with a power kernel, its scores are kept in range."""
    return (*TRAINING, ("training.score_penalty", SCORE_PENALTY)) if parse(architecture).power else TRAINING


def _point(name: str, purpose: str, architecture: str, layers: int, heads: int, width: int) -> Recommendation:
    shape = replace(GPT2_SMALL, layers=layers, heads=heads, width=width)
    return Recommendation(name, purpose, architecture, shape, training_of(architecture))


RECOMMENDED: dict[str, Recommendation] = {
    point.name: point
    for point in (
        _point("Hush-S", "least work before there is a prompt, within 1.10 times SM+LN+G's perplexity", "SM(th)+LN+Q", 4, 6, 960),
        _point("Hush-M", "no comparison inside its layers, below SM+LN+G's perplexity", "PS3(th,qk)+LN+B", 6, 6, 1152),
        _point("Hush-L", "the same, wider and shallower: the lowest perplexity in the fewest seconds", "PS3(th,qk)+LN+B", 4, 12, 1536),
    )
}
"""By name, the one with the fewest parameters first."""
