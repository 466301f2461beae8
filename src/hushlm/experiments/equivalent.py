"""What a small trained model stands for at GPT-2 small's scale, and what a private token of it would cost there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hushlm.architectures import Architecture
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import flops, parameters, price
from hushlm.experiments.scales import Scale
from hushlm.plan import prefill_plan
from hushlm.shapes import GPT2_SMALL, proportional

__all__ = ["Equivalent", "equivalent", "priced_at"]


@dataclass(frozen=True)
class Equivalent:
    """A model at GPT-2 small's scale, with the predicted price of one private pass over its whole context that reveals a token.

    Attributes:
        shape: its sizes there.
        bytes: how many bytes the pass moves, both directions together.
        rounds: how many round trips the pass takes.
        parameters: how many parameters the model has.
        flops: how many floating-point operations the pass takes in plaintext.
    """

    shape: ModelShape
    bytes: int
    rounds: float
    parameters: int
    flops: int


def equivalent(config: RunConfig, scale: Scale) -> Equivalent:
    """The model of a run at GPT-2 small's scale.

    Layers, heads and width are in the same proportion to GPT-2 small's as the run's are to those of its scale's base; context (128) and
    vocabulary are GPT-2's.

    Raises:
        ValueError: if a size has no whole counterpart there.
    """
    base, shape = scale.base.shape, config.shape
    scaled = replace(
        GPT2_SMALL,
        layers=proportional(shape.layers, base.layers, GPT2_SMALL.layers, "layers"),
        heads=proportional(shape.heads, base.heads, GPT2_SMALL.heads, "heads"),
        width=proportional(shape.width, base.width, GPT2_SMALL.width, "width"),
        ffn_multiple=shape.ffn_multiple,
    )
    return priced_at(config.parsed_architecture, scaled)


def priced_at(architecture: Architecture, shape: ModelShape) -> Equivalent:
    """An architecture at given sizes, with its price."""
    total = price(prefill_plan(architecture, shape, shape.context)).total
    operations = flops(architecture, shape, convention="full").total
    return Equivalent(shape, int(total.bytes), total.rounds, parameters(architecture, shape), int(operations))
