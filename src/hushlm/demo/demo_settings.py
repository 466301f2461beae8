"""What the demo runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hushlm.architectures import slug
from hushlm.config import DataConfig, ModelShape, RunConfig, TrainingConfig

__all__ = ["COLLAPSE", "REFERENCE", "ROWS", "DemoSettings"]

ROWS = ("SM+LN+G", "SM+ScFuFFN", "EReg(SM(t)+ScFuFFN)", "SM2+R")
"""The architectures of the table, in its order."""

REFERENCE = "EReg(SM(t)+ScFuFFN)"
"""The row chosen is the cheapest one whose perplexity is at least as good as this one's."""

COLLAPSE = "SM"
"""Softmax only: trained deeper, faster and without clipping, it collapses."""


@dataclass(frozen=True)
class DemoSettings:
    """One demo.

    Attributes:
        output: the folder of everything it writes.
        seed: what weights, data order and prompt are drawn with.
        shape: the sizes of the models in the table.
        collapse_shape: the sizes of the model that collapses.
        data: the corpus and the tokenizer.
        training: how every row of the table is trained.
        collapse_training: how the model that collapses is trained.
        evaluation_batches: how many batches the table's perplexities and entropies are measured on.
        prompt_tokens, new_tokens: the lengths of the private question and of its answer, in tokens of the model that answers.
        prompt_beginnings: what the text of the question may begin with.
        uses_box: whether the model in the box answers, and no row.
        private_architecture: otherwise the row to answer with; None for the cheapest one that is good enough.
    """

    output: Path
    seed: int
    shape: ModelShape
    collapse_shape: ModelShape
    data: DataConfig
    training: TrainingConfig
    collapse_training: TrainingConfig
    evaluation_batches: int
    prompt_tokens: int
    new_tokens: int
    prompt_beginnings: tuple[str, ...]
    uses_box: bool
    private_architecture: str | None = None

    @staticmethod
    def full(output: Path, seed: int, steps: int, tokenizer: str, private_architecture: str | None = None) -> DemoSettings:
        """The whole demo: minutes on two cores, at a setting in which the paper's effects show at this scale.

        The model in the box answers unless a row is asked to.
        """
        uses_box = private_architecture is None
        # One thread for each run, because two runs go on at once.
        training = TrainingConfig(steps=steps, seed=seed, threads=1, evaluate_every=200, evaluation_batches=16)
        return DemoSettings(
            output=output,
            seed=seed,
            shape=ModelShape(),
            collapse_shape=ModelShape(layers=12),
            data=DataConfig(tokenizer=tokenizer),
            training=training,
            collapse_training=replace(training, steps=1200, learning_rate=1e-2, clip_norm=None, watch_every=1, evaluate_every=600),
            evaluation_batches=64,
            # Prepared lengths are multiples of 32; the box's tokens are words and parts of words, the rows' single bytes.
            prompt_tokens=60 if uses_box else 112,
            new_tokens=12 if uses_box else 16,
            prompt_beginnings=("def ", "class ") if uses_box else ("",),
            uses_box=uses_box,
            private_architecture=private_architecture,
        )

    @staticmethod
    def quick(output: Path, seed: int, steps: int, tokenizer: str, private_architecture: str | None = None) -> DemoSettings:
        """Every stage at a size at which nothing is learned, for tests; a row answers, which is smaller than the model in the box."""
        full = DemoSettings.full(output, seed, steps, tokenizer, private_architecture)
        small = ModelShape(layers=2, heads=2, width=16, context=32)
        return replace(
            full,
            shape=small,
            collapse_shape=replace(full.collapse_shape, heads=2, width=32, context=32),
            training=replace(full.training, evaluation_batches=2),
            collapse_training=replace(full.collapse_training, steps=200, learning_rate=5e-2, evaluation_batches=2),
            evaluation_batches=4,
            prompt_tokens=24,
            new_tokens=2,
            prompt_beginnings=("",),
            uses_box=False,
        )

    def row_config(self, architecture: str) -> RunConfig:
        """The run of one row."""
        return RunConfig(
            architecture=architecture,
            shape=self.shape,
            data=self.data,
            training=self.training,
            output=self.output / "runs" / slug(architecture),
        )

    def collapse_config(self) -> RunConfig:
        """The run that collapses."""
        return RunConfig(
            architecture=COLLAPSE,
            shape=self.collapse_shape,
            data=self.data,
            training=self.collapse_training,
            output=self.output / "runs" / "collapse",
        )
