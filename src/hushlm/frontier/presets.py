"""Scales of the contest, and what a shape of one corresponds to at GPT-2 small's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hushlm.config import DataConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.cost import flops, parameters, price
from hushlm.plan import prefill_plan
from hushlm.reproduce.presets import PRESETS as REPRODUCE_PRESETS
from hushlm.shapes import GPT2_SMALL, proportional

__all__ = ["BASELINE", "SCALES", "Equivalent", "Scale", "equivalent"]

BASELINE = "SM+LN+G"
"""Whose perplexity everything is held against."""


@dataclass(frozen=True)
class Scale:
    """One scale of the contest.

    Attributes:
        name: as on the command line.
        base: the baseline's run; every contestant has its corpus, tokens and context.
        search_steps: updates of a trial of the search; figures that are reported have `base.training.steps`.
        trials: of the search.
        layers, heads, widths, ffn_multiples: of the search space.
        learning_rates: swept for every finalist and for the baseline alike, with seed 0.
        seeds: of the figures reported.
        ablation_seeds: of the ablation.
        evaluation_batches: of the test split, at most.
        checkpoint_every: updates between checkpoints; None where a run takes minutes.
        stability_layers, stability_rates, stability_steps: of the map of learning rate against depth.
    """

    name: str
    base: RunConfig
    search_steps: int
    trials: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    widths: tuple[int, ...]
    ffn_multiples: tuple[int, ...]
    learning_rates: tuple[float, ...]
    seeds: int
    ablation_seeds: int
    evaluation_batches: int
    checkpoint_every: int | None
    stability_layers: tuple[int, ...]
    stability_rates: tuple[float, ...]
    stability_steps: int

    def on(self, device: Literal["cpu", "cuda"]) -> Scale:
        """The same scale with its runs on a device."""
        return replace(self, base=replace(self.base, training=replace(self.base.training, device=device)))


_MICRO = REPRODUCE_PRESETS["micro"]
_PAPER = REPRODUCE_PRESETS["paper"]

SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        # About a minute a run on one core: L=6 D=64, bytes. Its runs are those of `hushlm reproduce --preset micro`.
        Scale(
            "micro",
            base=replace(_MICRO.base, architecture=BASELINE),
            search_steps=400,
            trials=60,
            layers=(4, 5, 6, 8),
            heads=(1, 2, 4),
            widths=(48, 64, 80),
            ffn_multiples=(1, 2, 3, 4, 6),
            # Above reproduce's: Muon takes higher ones. The baseline's best, 5e-3, has a lower neighbour there.
            learning_rates=(5e-3, 1e-2, 2e-2),
            seeds=3,
            ablation_seeds=1,
            evaluation_batches=_MICRO.evaluation_batches,
            checkpoint_every=None,
            stability_layers=(6, 12, 24),
            stability_rates=(1e-2, 2e-2, 4e-2),
            stability_steps=200,
        ),
        # Three million parameters, own BPE, 13 million tokens: seconds a run on a GPU, over an hour on a core.
        Scale(
            "small",
            base=RunConfig(
                architecture=BASELINE,
                shape=ModelShape(layers=6, heads=4, width=192, context=128),
                data=DataConfig(corpus="wheels", tokenizer="bpe:4096"),
                training=TrainingConfig(
                    steps=800,
                    batch=128,
                    learning_rate=8e-3,
                    warmup_steps=50,
                    evaluate_every=800,
                    evaluation_batches=32,
                    watch_every=50,
                    threads=1,
                    precision="tf32",
                ),
            ),
            search_steps=250,
            trials=44,
            layers=(2, 3, 4, 5, 6, 8),
            heads=(1, 2, 4),
            widths=(144, 192, 240, 288),
            ffn_multiples=(1, 2, 3, 4, 6),
            learning_rates=(8e-3, 1.6e-2),
            seeds=3,
            ablation_seeds=1,
            evaluation_batches=128,
            checkpoint_every=400,
            stability_layers=(6, 12, 24),
            stability_rates=(8e-3, 16e-3, 32e-3),
            stability_steps=100,
        ),
        # GPT-2 small itself on 2.1 billion tokens, for GPUs: the named points, not the search.
        Scale(
            "paper",
            base=replace(_PAPER.base, architecture=BASELINE),
            search_steps=2_000,
            trials=0,
            layers=(12,),
            heads=(3, 6, 12),
            widths=(768,),
            ffn_multiples=(1, 2, 3, 4),
            learning_rates=_PAPER.learning_rates,
            seeds=1,
            ablation_seeds=1,
            evaluation_batches=_PAPER.evaluation_batches,
            checkpoint_every=_PAPER.checkpoint_every,
            stability_layers=(12, 24),
            stability_rates=(1e-3, 3e-3),
            stability_steps=2_000,
        ),
    )
}
"""By name."""


@dataclass(frozen=True)
class Equivalent:
    """What a run's model is at GPT-2 small's scale, and what a private token of it costs there.

    Attributes:
        shape: layers, heads and width in the same proportion to GPT-2 small's as the run's to its scale's base; GPT-2's context of 128
            and vocabulary.
        bytes: predicted of one private pass over the whole context that reveals a token, both directions.
        rounds: round trips of it.
        parameters, flops: of the model and of the pass.
    """

    shape: ModelShape
    bytes: int
    rounds: float
    parameters: int
    flops: int


def equivalent(config: RunConfig, scale: Scale) -> Equivalent:
    """A run's model at GPT-2 small's scale.

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
    architecture = config.parsed_architecture
    total = price(prefill_plan(architecture, scaled, scaled.context)).total
    return Equivalent(
        scaled, int(total.bytes), total.rounds, parameters(architecture, scaled), int(flops(architecture, scaled, convention="full").total)
    )
