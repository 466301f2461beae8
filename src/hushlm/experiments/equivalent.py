"""What a small trained model stands for at GPT-2 small's scale, and what a private token of it would cost there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from hushlm.architectures import Architecture
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import flops, parameters, price
from hushlm.cost.network import LAN, WAN
from hushlm.cost.prepared import price_prepared, price_prepared_passes
from hushlm.experiments.scales import Scale
from hushlm.plan import prefill_plan
from hushlm.shapes import GPT2_SMALL, proportional

__all__ = ["Equivalent", "PreparedPrice", "equivalent", "prepared_at", "priced_at"]


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


@dataclass(frozen=True)
class PreparedPrice:
    """The predicted price of an answer from prepared material, and of one without, over two networks.

    A prompt of one token less than the context, so that one further token fits. Answers are prepared eight at a time; each network has the
    forms of its own that are quickest over it, and bytes are of those with the fewest. A session's set-up is left out.

    Attributes:
        offline_bytes, offline_cpu_seconds: making the material of one answer.
        online_bytes: the first token.
        online_seconds_lan, online_seconds_wan: how long it takes.
        further_seconds_lan, further_seconds_wan: how long the further token takes.
        today_seconds_lan, today_seconds_wan: how long the first token takes where nothing was prepared.
    """

    offline_bytes: int
    offline_cpu_seconds: float
    online_bytes: int
    online_seconds_lan: float
    online_seconds_wan: float
    further_seconds_lan: float
    further_seconds_wan: float
    today_seconds_lan: float
    today_seconds_wan: float

    def to_dict(self) -> dict[str, Any]:
        """The price as plain JSON values."""
        return asdict(self)


def prepared_at(architecture: Architecture, shape: ModelShape) -> PreparedPrice:
    """An architecture at given sizes, with the price of its prepared answers."""
    prompt = shape.context - 1
    fewest = price_prepared(architecture, shape, prompt, 2)
    # From stocks, however long filling them takes: a session's set-up is no part of these prices.
    quickest = partial(price_prepared_passes, architecture, shape, prompt, 2, transfers="ferret")
    (lan, lan_further), (wan, wan_further) = (
        [report.total.seconds for report in quickest(network=network, forms=network)] for network in (LAN, WAN)
    )
    today = [price(prefill_plan(architecture, shape, shape.context), network=network).total.seconds for network in (LAN, WAN)]
    return PreparedPrice(
        int(fewest.offline.bytes), fewest.offline.cpu_seconds, int(fewest.passes[0].total.bytes), lan, wan, lan_further, wan_further, *today
    )
