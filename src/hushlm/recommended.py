"""Which model should I use? The named points of the contest (docs/frontier), as sizes in proportion to GPT-2 small's.

Outcomes of `hushlm frontier run` at two scales (results/frontier-micro.json and frontier-small.json), every one measured at both: chosen on
the validation split, measured on the test split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hushlm.config import ModelShape
from hushlm.shapes import GPT2_SMALL, proportional

__all__ = ["RECOMMENDED", "TRAINING", "Recommendation"]


@dataclass(frozen=True)
class Recommendation:
    """A named point.

    Attributes:
        name: Hush-S, -M or -L.
        purpose: one phrase.
        architecture: its name.
        shape: at GPT-2 small's scale.
        training: settings that differ from the defaults and came out of the contest, as (dotted name, value).
    """

    name: str
    purpose: str
    architecture: str
    shape: ModelShape
    training: tuple[tuple[str, Any], ...] = ()

    def changes(self, base: ModelShape) -> tuple[tuple[str, Any], ...]:
        """Settings of this point beside a baseline of another size, as (dotted name, value): layers, heads and width in proportion.

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
"""Of every named point, beside its learning rate."""


def _point(name: str, purpose: str, architecture: str, layers: int, heads: int, width: int) -> Recommendation:
    return Recommendation(name, purpose, architecture, replace(GPT2_SMALL, layers=layers, heads=heads, width=width), TRAINING)


RECOMMENDED: dict[str, Recommendation] = {
    point.name: point
    for point in (
        _point("Hush-S", "within 1.10 times SM+LN+G's perplexity at both scales, below 1 GB", "SM(th)+LN+Q", 4, 6, 960),
        _point("Hush-M", "below SM+LN+G's perplexity at both scales, below 1.6 GB", "SM2(th)+LN+R", 6, 6, 1152),
        _point("Hush-L", "below SM+LN+G's perplexity at both scales", "SM2(th)+LN+Q", 12, 3, 960),
    )
}
"""By name, cheapest first."""
