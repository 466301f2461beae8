"""A checkpoint in a cheaper architecture, brought back near to what it was: rewritten, refitted in closed form, and trained if wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hushlm.adaptation.refit import RefittedLayer, refit
from hushlm.adaptation.rewriting import mean_losses_nats, rewrite
from hushlm.architectures import Architecture, parse
from hushlm.config import DataConfig, ModelShape, RunConfig, TrainingConfig
from hushlm.data import Tokens, TokenStore
from hushlm.data.chat_files import read_chat_files
from hushlm.files import check_replaceable, check_writable, current_folder, one_writer
from hushlm.model.language_model import LanguageModel
from hushlm.training import Checkpoint, StepRecord, build_model, load_checkpoint, save_checkpoint, train

__all__ = ["AdaptReport", "Stage", "adapt", "adapted_data", "start_folder"]

WINDOW = 128
"""The most tokens of a window that is fitted or measured on."""

CHECKED_SHARE = 4
"""Of the windows to fit on, one in so many chooses how strongly a layer's fit holds on to what was."""

MEASURED_WINDOWS = 64


@dataclass(frozen=True)
class Stage:
    """One step on the way.

    Attributes:
        name: "as it was", "rewritten", "refitted" or "trained".
        architecture: at that step.
        loss_nats: mean cross-entropy a token on the test split.
    """

    name: str
    architecture: str
    loss_nats: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss_nats, 700.0))


@dataclass(frozen=True)
class AdaptReport:
    """What became of a checkpoint.

    Attributes:
        folder: the new checkpoint.
        source: the old one.
        shape: the sizes of both.
        stages: perplexities on the way, the first of the model as it was.
        measured_tokens: how many tokens of the text's test split they are of.
        fitted_tokens: how many tokens of its training split the closed-form fit read, a quarter of them to choose its ridge; 0 if a
            training was resumed.
        temperature: the factor on all temperatures, where one was chosen.
        layers: what the fit did, one entry a layer that has something to fit.
        steps: updates of the training after it.
    """

    folder: Path
    source: Path
    shape: ModelShape
    stages: tuple[Stage, ...]
    measured_tokens: int
    fitted_tokens: int
    temperature: float | None
    layers: tuple[RefittedLayer, ...]
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None for what is no finite number."""
        first = self.stages[0].perplexity
        stages = [
            {name: _finite(value) for name, value in asdict(stage).items()}
            | {"perplexity": _finite(stage.perplexity), "ratio": _finite(stage.perplexity / first)}
            for stage in self.stages
        ]
        layers = [{name: _finite(value) for name, value in asdict(layer).items()} for layer in self.layers]
        return asdict(self) | {
            "folder": str(self.folder),
            "source": str(self.source),
            "shape": self.shape.to_dict(),
            "stages": stages,
            "layers": layers,
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def adapted_data(source: Checkpoint, text: str, cache: Path = DataConfig.cache) -> DataConfig:
    """The settings of a text in a checkpoint's own tokens."""
    return DataConfig(corpus=text, tokenizer=str(source.folder.absolute() / "tokenizer.json"), cache=cache)


def start_folder(output: Path) -> Path:
    """Where the model lies that training begins with, beside the one that it makes."""
    return output.with_name(f"{output.name}.start")


def adapt(
    source: Checkpoint,
    output: Path,
    architecture: str,
    store: TokenStore,
    data: DataConfig,
    *,
    fit_tokens: int = 8192,
    training: TrainingConfig | None = None,
    on_stage: Callable[[Stage], None] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    resume_from: Literal["auto"] | None = None,
    checkpoint_every: int | None = None,
) -> AdaptReport:
    """Make a checkpoint of another architecture from one that there is.

    The same text, source and settings give the same bytes. A training that was interrupted is resumed by the same call with `resume_from`.

    Args:
        source: the checkpoint, just loaded.
        output: folder of the new one; an earlier checkpoint there is replaced.
        architecture: the new architecture's name; blocks, normalisation and weights must be those of the old one.
        store: the text, from `open_token_store(data)`.
        data: from `adapted_data`.
        fit_tokens: how many tokens of the training split to fit on in closed form; 0 leaves out the fit.
        training: settings of a training after it, whose teacher is the model as it was; None leaves it out.
        on_stage: called with each stage as it is measured.
        on_step: called after every update.
        resume_from: "auto" to go on with a training that was interrupted.
        checkpoint_every: updates between checkpoints on the way.

    Raises:
        ValueError: one sentence, if the folders cannot be used, the architecture has other weights, the text is too short, or there is
            no training to resume.
        Divergence, Preempted, Interrupted: as `hushlm.training.train` raises them.
    """
    wanted = parse(architecture)
    if resume_from is not None and training is None:
        raise ValueError("Only a training can be resumed: give the number of its steps, or leave out resume.")
    for folder in (output, start_folder(output)):
        check_replaceable(folder)
    check_writable(output)
    if {source.folder.resolve(), source.config.output.resolve()} & {output.resolve(), start_folder(output).resolve()}:
        raise ValueError(f"{output} is the checkpoint to adapt, which training still needs: choose another folder for the new one.")
    original = source.model.requires_grad_(False)
    length = min(WINDOW, original.shape.context)
    test_NT = _windows(store.tokens["test"], length, MEASURED_WINDOWS)
    fit_NT = _windows(store.tokens["train"], length, max(CHECKED_SHARE, fit_tokens // length))
    stages: list[Stage] = []

    def measure(name: str, model: LanguageModel) -> None:
        [loss_nats] = mean_losses_nats(model, [test_NT])
        stages.append(Stage(name, str(model.architecture), loss_nats))
        if on_stage is not None:
            on_stage(stages[-1])

    measure("as it was", original)
    layers: list[RefittedLayer] = []
    temperature, fitted = None, 0
    first = output if training is None else start_folder(output)
    with one_writer(first):
        if resume_from is not None and current_folder(output).exists():
            measure("refitted", _begun(first, wanted))
        else:
            rewritten = rewrite(original, wanted, [fit_NT])
            temperature = rewritten.temperature
            measure("rewritten", rewritten.model)
            if fit_tokens:
                checked = torch.arange(len(fit_NT)) % CHECKED_SHARE == CHECKED_SHARE - 1
                layers, fitted = refit(rewritten.model, original, fit_NT[~checked], fit_NT[checked]), fit_NT.numel()
                measure("refitted", rewritten.model)
            _save(first, source, rewritten.model, data, store)
        if training is not None:
            config = RunConfig(
                architecture=str(wanted),
                shape=original.shape,
                data=data,
                training=replace(training, teacher=source.folder, start=first),
                output=output,
            )
            trained = train(config, store, on_step=on_step, resume_from=resume_from, checkpoint_every=checkpoint_every)
            measure("trained", trained.model.cpu().eval())
    return AdaptReport(
        folder=output,
        source=source.config.output,
        shape=original.shape,
        stages=tuple(stages),
        measured_tokens=len(test_NT) * (length - 1),
        fitted_tokens=fitted,
        temperature=temperature,
        layers=tuple(layers),
        steps=0 if training is None else training.steps,
    )


def _begun(folder: Path, wanted: Architecture) -> LanguageModel:
    """The model that an interrupted training began with.

    Raises:
        ValueError: if there is none, or one of another architecture.
    """
    model = load_checkpoint(folder).model
    if model.architecture != wanted:
        raise ValueError(f"{folder} is a {model.architecture}: resume with that architecture, or leave out resume to begin anew.")
    return model


def _save(folder: Path, source: Checkpoint, model: LanguageModel, data: DataConfig, store: TokenStore) -> None:
    config = RunConfig(architecture=str(model.architecture), shape=model.shape, data=data, output=folder)
    save_checkpoint(
        folder,
        config=config,
        model=model,
        tokenizer=source.tokenizer,
        regulariser=build_model(config)[1] if model.architecture.entropy_regularised else None,
        metrics=[],
        step=0,
        corpus=store.corpus_name,
        corpus_fingerprint=store.fingerprint,
        state=None,
        beside=read_chat_files(source.folder).contents(),
    )


def _windows(tokens: Tokens, length: int, count: int) -> Tensor:
    """Up to `count` windows (N, T), spread evenly, none overlapping another.

    Raises:
        ValueError: if there are fewer than four.
    """
    room = len(tokens) // length
    if room < CHECKED_SHARE:
        raise ValueError(
            f"The text is too short: a split of it has {len(tokens):,} tokens, and {CHECKED_SHARE} windows of {length} are the least. "
            "Give a longer one."
        )
    starts = torch.linspace(0, room - 1, min(room, count)).round().long() * length
    return torch.stack([torch.tensor([int(token) for token in tokens[int(start) : int(start) + length]]) for start in starts])
