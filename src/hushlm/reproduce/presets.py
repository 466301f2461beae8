"""Sizes and budgets at which the experiments run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hushlm.config import DataConfig, EntropyConfig, ModelShape, RunConfig, TrainingConfig

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """One scale.

    Attributes:
        name: as on the command line.
        base: the run that every row starts from.
        learning_rates: swept for every row alike with seed 0; the best on the validation split is every seed's.
        seeds: of the final figures.
        stress: the divergence setting; its row keeps the architecture and the corpus.
        evaluation_batches: of the figures reported, on the test split.
        checkpoint_every: updates between checkpoints of a run, None where a run takes minutes.
    """

    name: str
    base: RunConfig
    learning_rates: tuple[float, ...]
    seeds: int
    stress: RunConfig
    evaluation_batches: int
    checkpoint_every: int | None = None


_MICRO = RunConfig(training=TrainingConfig(threads=1, evaluate_every=400))
_STRESS = TrainingConfig(steps=400, learning_rate=1e-2, clip_norm=None, watch_every=2, evaluate_every=400, threads=1)

_SMALL = RunConfig(
    shape=ModelShape(layers=8, heads=8, width=256, context=128),
    data=DataConfig(corpus="wheels", tokenizer="bpe:8192"),
    training=TrainingConfig(
        steps=3000, batch=64, learning_rate=1e-3, warmup_steps=150, evaluate_every=500, evaluation_batches=64, watch_every=25, threads=2
    ),
)

_PAPER = RunConfig(
    shape=ModelShape(layers=12, heads=12, width=768, context=128),
    data=DataConfig(corpus="codeparrot", tokenizer="bpe:50257"),
    training=TrainingConfig(
        # 128,000 steps of 128 x 128 tokens: 2.1 billion.
        steps=128_000, batch=128, learning_rate=1e-3, warmup_steps=6_400, evaluate_every=2_000, evaluation_batches=128, watch_every=100
    ),
    # The paper's for CodeParrot; lambda is meant for the summed form.
    entropy=EntropyConfig(weight=1e-5, weight_end_fraction=None, tolerance=0.2, initial_temperature=1e-2, reduction="listing"),
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # Minutes a row on one core: L=6 D=64, bytes. The setting of the demo.
        Preset(
            "micro",
            base=_MICRO,
            learning_rates=(2.5e-3, 5e-3, 1e-2),
            seeds=3,
            stress=replace(_MICRO, shape=ModelShape(layers=12), training=_STRESS),
            evaluation_batches=10_000,
        ),
        # About a night on 16 cores: 8 million parameters, own BPE, 25 million tokens.
        Preset(
            "small",
            base=_SMALL,
            learning_rates=(1e-3, 2e-3),
            seeds=3,
            stress=replace(
                _SMALL,
                shape=replace(_SMALL.shape, layers=16),
                training=replace(_SMALL.training, steps=400, learning_rate=4e-3, clip_norm=None),
            ),
            evaluation_batches=2_000,
            checkpoint_every=500,
        ),
        # GPT-2 small on 2.1 billion tokens: for GPUs.
        Preset(
            "paper",
            base=_PAPER,
            learning_rates=(1e-3,),
            seeds=1,
            stress=replace(_PAPER, training=replace(_PAPER.training, clip_norm=None)),
            evaluation_batches=10_000,
            checkpoint_every=1_000,
        ),
    )
}
"""By name."""
