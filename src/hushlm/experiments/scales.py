"""Scales: the sizes and budgets at which experiments run. `--preset` names one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hushlm.config import DataConfig, EntropyConfig, ModelShape, RunConfig, TrainingConfig

__all__ = ["BASELINE", "CONTEST_SCALES", "PAPER_SCALES", "ContestScale", "Scale"]

BASELINE = "SM+LN+G"
"""The architecture whose perplexity every contestant is held against."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What every run at one scale has in common, and how a row is tuned and measured there.

    Attributes:
        name: what `--preset` calls it.
        takes: how long its runs take, in words.
        base: the run that every row starts from.
        learning_rates: what every row alike is tried at with seed 0; the one with the best validation perplexity is used for all seeds.
        seeds: how many runs a reported figure is the mean of.
        evaluation_batches: how many batches of the test split are read at most for a reported figure.
        checkpoint_every: how many updates lie between a run's checkpoints; None, where a run takes minutes, for none before the last.
        one_rate_too: whether tables that the paper made at one learning rate for all rows are shown so as well.
        stress: the divergence setting of the paper's tables, whose rows keep their architecture and corpus; None where there is none.
    """

    name: str
    takes: str = ""
    base: RunConfig
    learning_rates: tuple[float, ...]
    seeds: int
    evaluation_batches: int
    checkpoint_every: int | None = None
    one_rate_too: bool = False
    stress: RunConfig | None = None


@dataclass(frozen=True, kw_only=True)
class ContestScale(Scale):
    """A scale of the contest. Its base is the baseline's run; every contestant has the base's corpus, number of tokens and context.

    Attributes:
        objective: what is held against perplexity: the bytes of a private token as it is served without preparation, or the seconds of
            an answer that was prepared (`contest.objective`).
        search_steps: how many updates a trial of the search gets; reported figures come from runs of `base.training.steps`.
        trials: how many trials the search makes.
        layers, heads, widths, ffn_multiples: what the search may choose from.
        ablation_seeds: how many seeds each row of the ablation gets.
        stability_layers, stability_rates: the depths and learning rates of the stability map.
        stability_steps: how many updates each run of the stability map gets.
    """

    objective: Literal["bytes", "online"] = "bytes"
    search_steps: int
    trials: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    widths: tuple[int, ...]
    ffn_multiples: tuple[int, ...]
    ablation_seeds: int = 1
    stability_layers: tuple[int, ...]
    stability_rates: tuple[float, ...]
    stability_steps: int

    def on(self, device: Literal["cpu", "cuda"]) -> ContestScale:
        """The same scale with its runs on a device."""
        return replace(self, base=replace(self.base, training=replace(self.base.training, device=device)))


_MICRO = RunConfig(training=TrainingConfig(threads=1, evaluate_every=400))
_MICRO_STRESS = TrainingConfig(steps=400, learning_rate=1e-2, clip_norm=None, watch_every=2, evaluate_every=400, threads=1)

_SMALL = RunConfig(
    shape=ModelShape(layers=12, heads=4, width=128, context=128),
    data=DataConfig(corpus="wheels", tokenizer="bpe:4096"),
    training=TrainingConfig(
        steps=1000,
        batch=64,
        warmup_steps=50,
        evaluate_every=500,
        evaluation_batches=64,
        watch_every=25,
        threads=1,
        precision="tf32",
    ),
)

_PAPER = RunConfig(
    shape=ModelShape(layers=12, heads=12, width=768, context=128),
    data=DataConfig(corpus="codeparrot", tokenizer="bpe:50257"),
    training=TrainingConfig(
        # 128,000 steps of 128 x 128 tokens: 2.1 billion.
        steps=128_000, batch=128, learning_rate=1e-3, warmup_steps=6_400, evaluate_every=2_000, evaluation_batches=128, watch_every=100
    ),
    # The paper's values for CodeParrot; its lambda is meant for the summed form.
    entropy=EntropyConfig(weight=1e-5, weight_end_fraction=None, tolerance=0.2, initial_temperature=1e-2, reduction="listing"),
)  # fmt: skip

PAPER_SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        # Minutes a row on one core: 6 layers of 64, bytes as tokens. The demo has the same setting.
        Scale(
            name="micro",
            takes="a run takes one to two minutes of a core",
            base=_MICRO,
            learning_rates=(2.5e-3, 5e-3, 1e-2),
            seeds=3,
            stress=replace(_MICRO, shape=ModelShape(layers=12), training=_MICRO_STRESS),
            evaluation_batches=10_000,
        ),
        # GPT-2 small's depth: 12 layers of 128, three million parameters, a tokenizer of its own, eight million tokens.
        Scale(
            name="small",
            takes="a run takes about 20 minutes of a core",
            base=_SMALL,
            learning_rates=(2.5e-3, 5e-3, 1e-2),
            seeds=3,
            stress=replace(
                _SMALL,
                shape=replace(_SMALL.shape, layers=18),
                training=replace(_SMALL.training, steps=400, learning_rate=1e-2, clip_norm=None),
            ),
            evaluation_batches=256,
            checkpoint_every=250,
            one_rate_too=True,
        ),
        # GPT-2 small on 2.1 billion tokens: for GPUs.
        Scale(
            name="paper",
            takes="a run is meant for GPUs and takes days on a few cores",
            base=_PAPER,
            learning_rates=(1e-3,),
            seeds=1,
            stress=replace(_PAPER, training=replace(_PAPER.training, clip_norm=None)),
            evaluation_batches=10_000,
            checkpoint_every=1_000,
        ),
    )
}
"""The scales of the paper's tables (`hushlm reproduce`), by name."""

CONTEST_SCALES: dict[str, ContestScale] = {
    scale.name: scale
    for scale in (
        # About a minute a run on one core. Its runs are those of `hushlm reproduce --preset micro`.
        ContestScale(
            name="micro",
            base=replace(_MICRO, architecture=BASELINE),
            search_steps=400,
            trials=60,
            layers=(4, 5, 6, 8),
            heads=(1, 2, 4),
            widths=(48, 64, 80),
            ffn_multiples=(1, 2, 3, 4, 6),
            # Higher than for the paper's tables, since Muon takes higher ones. The baseline's best, 5e-3, has a lower neighbour there.
            learning_rates=(5e-3, 1e-2, 2e-2),
            seeds=3,
            evaluation_batches=10_000,
            stability_layers=(6, 12, 24),
            stability_rates=(1e-2, 2e-2, 4e-2),
            stability_steps=200,
        ),
        # Three million parameters, a tokenizer of its own, 13 million tokens: seconds a run on a GPU, over an hour on a core.
        ContestScale(
            name="small",
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
            evaluation_batches=128,
            checkpoint_every=400,
            stability_layers=(6, 12, 24),
            stability_rates=(8e-3, 16e-3, 32e-3),
            stability_steps=100,
        ),
        # GPT-2 small itself on 2.1 billion tokens, for GPUs: only the recommended models are run there, no search.
        ContestScale(
            name="paper",
            base=replace(_PAPER, architecture=BASELINE),
            search_steps=2_000,
            trials=0,
            layers=(12,),
            heads=(3, 6, 12),
            widths=(768,),
            ffn_multiples=(1, 2, 3, 4),
            learning_rates=(1e-3,),
            seeds=1,
            evaluation_batches=10_000,
            checkpoint_every=1_000,
            stability_layers=(12, 24),
            stability_rates=(1e-3, 3e-3),
            stability_steps=2_000,
        ),
    )
}
"""The scales of the contest (`hushlm frontier run`), by name."""

for _scale, _layers, _widths, _trials in (
    (CONTEST_SCALES["micro"], (2, 3, 4, 6), (64, 80, 96, 128), 60),
    (CONTEST_SCALES["small"], (2, 3, 4, 6), (192, 240, 288, 336, 384), 40),
):
    # In seconds depth costs round trips, and width is nearly free.
    _name = f"{_scale.name}-online"
    CONTEST_SCALES[_name] = replace(_scale, name=_name, objective="online", layers=_layers, widths=_widths, trials=_trials)
