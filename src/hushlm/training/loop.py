"""The training loop: cross-entropy, plus lambda times the entropy penalty where the architecture asks for it.

Legend: B batch, T tokens, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hushlm.config import RunConfig
from hushlm.data import Sampler, TokenStore
from hushlm.entropy import EntropyRegulariser
from hushlm.files import check_replaceable, write_atomic
from hushlm.model import LanguageModel
from hushlm.training.checkpoint import TrainingState, build_model, load_checkpoint, load_training_state, save_checkpoint
from hushlm.training.evaluation import Evaluation, evaluate
from hushlm.training.optimiser import learning_rate, make_optimiser, optimiser_tensors, regulariser_weight, restore_optimiser
from hushlm.training.watch import Divergence, EntropyWatch

__all__ = ["StepRecord", "TrainingResult", "train"]


@dataclass(frozen=True)
class StepRecord:
    """One update, as reported to `on_step`.

    Attributes:
        step: counted from 1.
        steps: of the whole run.
        loss: cross-entropy before the update, nats a token.
        learning_rate: of the update.
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
        regulariser: with its learned thresholds, or None.
        metrics: the rows of metrics.jsonl.
        evaluation: on the validation split, after the last update.
        seconds: of this call.
        cpu_seconds: of this call, over all threads.
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


def train(
    config: RunConfig,
    store: TokenStore,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    resume_from: Path | None = None,
    checkpoint_every: int | None = None,
) -> TrainingResult:
    """Train a model and write its checkpoint to `config.output`.

    The same config and store give the same bytes, whether the run was interrupted and resumed or not; with another number of threads or
    another processor, sums may round differently.

    metrics.jsonl has a row for step 1, every `watch_every`-th, every validation and the last step: step, loss, penalty,
    regulariser_weight, learning_rate, gradient_norm, head_entropy_nats (L x H, batch means), layer_entropy_nats (L), temperature and
    threshold ({mean, min, max} or None), and on validations validation_loss and validation_perplexity, after the update.

    Args:
        config: the run; `shape.vocabulary` is replaced by the tokenizer's.
        store: from `open_token_store(config.data)`.
        on_step: called after every update.
        resume_from: a checkpoint of the same run to go on from.
        checkpoint_every: updates between checkpoints on the way; None writes only the final one.

    Raises:
        ValueError: one sentence, if `config.output` is not ours to replace, a split is too short, or `resume_from` is another run's.
        Divergence: before an update that would spoil the weights. The rows so far are in its `metrics` and in
            `<output>.diverged.jsonl`; an earlier checkpoint stays as it was.
    """
    config = replace(config, shape=replace(config.shape, vocabulary=store.vocabulary))
    check_replaceable(config.output)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        try:
            if config.training.threads:
                torch.set_num_threads(config.training.threads)
            run = _Run(config, store)
            if resume_from is not None:
                run.resume(resume_from)
            return run.finish(on_step, checkpoint_every)
        finally:
            torch.set_num_threads(threads)


class _Run:
    """The state of a run between two updates."""

    def __init__(self, config: RunConfig, store: TokenStore) -> None:
        settings = config.training
        self.config, self.store, self.settings = config, store, settings
        self.sampler = Sampler(store.tokens["train"], settings.batch, config.shape.context, settings.seed)
        self.use(*build_model(config))
        self.watch = EntropyWatch(config.shape.context, config.shape.vocabulary)
        self.metrics: list[dict[str, Any]] = []
        self.evaluation: Evaluation | None = None
        self.step = 0

    def use(self, model: LanguageModel, regulariser: EntropyRegulariser | None) -> None:
        self.model, self.regulariser = model.train(), regulariser
        modules: dict[str, nn.Module] = {"model": model} if regulariser is None else {"model": model, "regulariser": regulariser}
        self.optimiser = make_optimiser(modules, self.settings)
        self.parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def resume(self, folder: Path) -> None:
        """Raises: ValueError if the checkpoint is another run's, or damaged."""
        checkpoint = load_checkpoint(folder)
        _same_run(checkpoint.config, self.config)
        if checkpoint.provenance.get("corpus_fingerprint") != self.store.fingerprint:
            raise ValueError(f"{folder} was trained on other tokens: use the same corpus and tokenizer, or start a new run.")
        state = load_training_state(checkpoint)
        self.use(checkpoint.model, checkpoint.regulariser)
        restore_optimiser(self.optimiser, state.optimiser)
        self.sampler.restore(state.sampler)
        torch.set_rng_state(state.random_state)
        self.metrics, self.step = checkpoint.metrics, checkpoint.step
        for row in self.metrics:
            self.watch.record(row["step"], row["loss"], row["layer_entropy_nats"])

    def finish(self, on_step: Callable[[StepRecord], None] | None, checkpoint_every: int | None) -> TrainingResult:
        settings, first = self.settings, self.step
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            while self.step < settings.steps:
                loss, norm, row = self.update()
                seconds = time.perf_counter() - start
                if on_step is not None:
                    rate = (self.step - first) * settings.batch * self.config.shape.context / seconds
                    done = self.step
                    on_step(StepRecord(done, settings.steps, loss, learning_rate(done - 1, settings), norm, rate, seconds, row))
                if checkpoint_every and self.step % checkpoint_every == 0 and self.step < settings.steps:
                    self.save()
        except Divergence as divergence:
            divergence.metrics = self.metrics
            rows = "".join(json.dumps(row) + "\n" for row in self.metrics)
            write_atomic(self.diverged_file, rows)
            raise
        if self.evaluation is None:  # resumed at the very end
            self.evaluation = self.validate()
        self.save()
        self.diverged_file.unlink(missing_ok=True)  # an earlier attempt's
        return TrainingResult(
            config=self.config,
            model=self.model.eval(),
            regulariser=self.regulariser,
            metrics=self.metrics,
            evaluation=self.evaluation,
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu_start,
            folder=self.config.output,
        )

    def update(self) -> tuple[float, float, dict[str, Any] | None]:
        """One step: loss in nats, gradient norm, and the metrics row if this step has one.

        Raises:
            Divergence: before the update.
        """
        settings, number = self.settings, self.step + 1
        last = number == settings.steps
        validates = last or number % settings.evaluate_every == 0
        records = validates or number == 1 or number % settings.watch_every == 0
        weight = regulariser_weight(self.step, settings.steps, self.config.entropy) if self.regulariser is not None else 0.0

        window_BT = self.sampler.next()
        inputs_BT, targets_BT = window_BT[:, :-1], window_BT[:, 1:]
        self.optimiser.zero_grad(set_to_none=True)
        # Entropies cost memory and time: only where they are penalised or recorded.
        output = self.model(inputs_BT, with_entropy=records or weight > 0)
        loss = F.cross_entropy(output.logits_BTV.flatten(0, 1), targets_BT.flatten())
        penalty = None
        if self.regulariser is not None and output.entropy_nats_LBHT is not None:
            penalty = self.regulariser(output.entropy_nats_LBHT)
        total = loss + weight * penalty if penalty is not None and weight > 0 else loss
        total.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        loss_value, total_value, norm_value = torch.stack((loss.detach(), total.detach(), norm)).tolist()

        head_entropy_nats: list[list[float]] = []
        if records or not math.isfinite(total_value + norm_value):
            entropy_nats_LBHT = output.entropy_nats_LBHT
            if entropy_nats_LBHT is None:
                # The step that broke is not a recorded one: look again, so that the report names the layers as they are now.
                with torch.no_grad():
                    entropy_nats_LBHT = self.model(inputs_BT, with_entropy=True).entropy_nats_LBHT
            head_entropy_nats = entropy_nats_LBHT.detach().mean(dim=(1, 3)).tolist()
        layer_entropy_nats = [sum(heads) / len(heads) for heads in head_entropy_nats]
        self.watch.check(number, total_value, norm_value, layer_entropy_nats)
        if records:
            self.watch.record(number, loss_value, layer_entropy_nats)

        rate = learning_rate(self.step, settings)
        if settings.clip_norm is not None and norm_value > settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, settings.clip_norm, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step = number
        if not records:
            return loss_value, norm_value, None

        row: dict[str, Any] = {
            "step": number,
            "loss": loss_value,
            "penalty": penalty.item() if penalty is not None else None,
            "regulariser_weight": weight,
            "learning_rate": rate,
            "gradient_norm": norm_value,
            "head_entropy_nats": head_entropy_nats,
            "layer_entropy_nats": layer_entropy_nats,
            "temperature": _statistics([p for name, p in self.model.named_parameters() if name.endswith(".temperature")]),
            "threshold": _statistics(list(self.regulariser.parameters()) if self.regulariser is not None else []),
        }
        if validates:
            self.evaluation = self.validate()
            row |= {"validation_loss": self.evaluation.loss_nats, "validation_perplexity": self.evaluation.perplexity}
        self.metrics.append(row)
        return loss_value, norm_value, row

    def validate(self) -> Evaluation:
        settings = self.settings
        return evaluate(self.model, self.store.tokens["validation"], settings.batch, self.config.shape.context, settings.evaluation_batches)

    @property
    def diverged_file(self) -> Path:
        output = self.config.output.absolute()
        return output.with_name(f"{output.name}.diverged.jsonl")

    def save(self) -> None:
        save_checkpoint(
            self.config.output,
            config=self.config,
            model=self.model,
            tokenizer=self.store.tokenizer,
            regulariser=self.regulariser,
            metrics=self.metrics,
            step=self.step,
            corpus=self.store.corpus_name,
            corpus_fingerprint=self.store.fingerprint,
            state=TrainingState(optimiser_tensors(self.optimiser), dict(self.sampler.state()), torch.get_rng_state()),
        )


def _same_run(saved: RunConfig, wanted: RunConfig) -> None:
    """Raises: ValueError naming the first setting in which two runs differ; where files lie and how many threads run may differ."""
    left, right = saved.to_dict(), wanted.to_dict()
    for values in (left, right):
        values["training"].pop("threads")
        values["data"].pop("cache")
        values.pop("output")
    for section, value in left.items():
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        for name, before in pairs:
            now = right[section][name] if isinstance(value, dict) else right[section]
            if before != now:
                setting = f"{section}.{name}" if name else section
                raise ValueError(f"The checkpoint was trained with {setting} = {before}, not {now}: resume with the same settings.")


def _statistics(tensors: list[nn.Parameter]) -> dict[str, float] | None:
    if not tensors:
        return None
    values = torch.cat([tensor.detach().flatten() for tensor in tensors])
    return {"mean": values.mean().item(), "min": values.min().item(), "max": values.max().item()}
