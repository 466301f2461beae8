"""What a run tells its caller: about every update, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushlm.config import RunConfig
from hushlm.entropy import EntropyRegulariser
from hushlm.model import LanguageModel
from hushlm.training.evaluation import Evaluation

__all__ = ["StepRecord", "TrainingResult"]


@dataclass(frozen=True)
class StepRecord:
    """One update, as reported to `on_step`.

    Attributes:
        step: counted from 1.
        steps: how many updates the whole run has.
        loss: cross-entropy before the update, nats a token.
        learning_rate: the learning rate of the update.
        gradient_norm: over all parameters, before clipping.
        tokens_per_second: over this call of `train`, validations included.
        seconds: since this call of `train` began.
        row: the row added to metrics.jsonl, None on steps without one.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds: float
    row: dict[str, Any] | None


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        config: resolved: `shape.vocabulary` is the tokenizer's.
        model: trained, in evaluation mode.
        regulariser: the entropy regulariser with its learned thresholds, or None.
        metrics: the rows of metrics.jsonl.
        evaluation: what the model does on the validation split after the last update.
        seconds: how long this call took.
        cpu_seconds: how much processor time this call took, over all threads.
        folder: the checkpoint.
    """

    config: RunConfig
    model: LanguageModel
    regulariser: EntropyRegulariser | None
    metrics: list[dict[str, Any]]
    evaluation: Evaluation
    seconds: float
    cpu_seconds: float
    folder: Path
