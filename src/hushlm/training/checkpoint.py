"""Checkpoints: a folder that is whole or absent, without pickle.

config.json          the resolved run (architecture, shape, data, training, entropy) and its provenance
model.safetensors    the model's state, float32 (float16 in the model that comes with the package)
tokenizer.json       text to ids and back
chat_template.jinja, tokenizer_config.json, generation_config.json   of a model that was taken over, see `hushlm.data.chat_files`
metrics.jsonl        one row a record
state/               what a resumed run needs: optimiser.safetensors, regulariser.safetensors (EReg only), progress.json
manifest.json        sha256 and size of every file, written last
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensor_bytes

from hushlm.box import checkpoint_folder
from hushlm.config import RunConfig
from hushlm.data.tokenizer import Tokenizer
from hushlm.entropy import EntropyRegulariser
from hushlm.files import current_folder, new_folder, read_json, verify_manifest, write_atomic
from hushlm.model import LanguageModel

__all__ = ["Checkpoint", "TrainingState", "build_model", "load_checkpoint", "load_training_state", "save_checkpoint"]

_FORMAT = 1
_PACKAGES = ("hushlm", "torch", "numpy", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and where it comes from.

    Attributes:
        config: the run's settings; `config.output` is the folder it was loaded from.
        model: the model, in evaluation mode.
        tokenizer: the run's.
        regulariser: the entropy regulariser with its learned thresholds; None if the architecture is not entropy-regularised.
        metrics: rows of metrics.jsonl.
        provenance: step, seed, corpus, corpus_fingerprint, python, versions.
        folder: where its files lie.
    """

    config: RunConfig
    model: LanguageModel
    tokenizer: Tokenizer
    regulariser: EntropyRegulariser | None
    metrics: list[dict[str, Any]]
    provenance: dict[str, Any]
    folder: Path

    @property
    def step(self) -> int:
        """Updates made."""
        return int(self.provenance["step"])


@dataclass(frozen=True)
class TrainingState:
    """What a resumed run needs beside the model.

    Attributes:
        optimiser: tensors by name, see `optimiser_tensors`.
        sampler: `Sampler.state()`.
        random_state: the state of torch's generator, one row for each rank; a single row may lack its first dimension.
    """

    optimiser: dict[str, torch.Tensor]
    sampler: dict[str, Any]
    random_state: torch.Tensor


def build_model(config: RunConfig) -> tuple[LanguageModel, EntropyRegulariser | None]:
    """The untrained model of a run, and its regulariser if the architecture has one; both from `config.training.seed`."""
    architecture, shape, entropy = config.parsed_architecture, config.shape, config.entropy
    model = LanguageModel(
        architecture,
        shape,
        initial_temperature=entropy.initial_temperature,
        init_std=config.training.init_std,
        residual_init=config.training.residual_init,
        seed=config.training.seed,
    )
    if not architecture.entropy_regularised:
        return model, None
    regulariser = EntropyRegulariser(
        shape.layers,
        shape.heads,
        shape.context,
        tolerance=entropy.tolerance,
        initial_threshold=entropy.initial_threshold,
        reduction=entropy.reduction,
    )
    return model, regulariser


def save_checkpoint(
    folder: Path,
    *,
    config: RunConfig,
    model: LanguageModel | Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    regulariser: EntropyRegulariser | None,
    metrics: Sequence[Mapping[str, Any]],
    step: int,
    corpus: str,
    corpus_fingerprint: str,
    state: TrainingState | None,
    beside: Mapping[str, str] = {},
) -> None:
    """Write a checkpoint in one step: a kill at any moment leaves the folder's old checkpoint or this one, whole.

    The same run gives the same bytes: no file holds a time, and tensors are sorted by name.

    Args:
        folder: where; an earlier checkpoint there is replaced.
        config: the run's.
        model: trained so far, or its state, put together from the shards of several processes.
        tokenizer: the run's.
        regulariser: the entropy regulariser with its thresholds, or None.
        metrics: rows so far; every number finite.
        step: updates made.
        corpus: its name.
        corpus_fingerprint: `TokenStore.fingerprint`.
        state: what a resumed run needs; None for a model that was not trained here, which cannot be resumed.
        beside: further files by name, such as a chat template.

    Raises:
        ValueError: if `folder` holds files that are not ours.
    """
    about = config.to_dict()
    del about["output"]  # it is where the folder lies, and a folder may be moved
    provenance = {
        "step": step,
        "seed": config.training.seed,
        "corpus": corpus,
        "corpus_fingerprint": corpus_fingerprint,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
    }
    weights = dict(model.state_dict() if isinstance(model, torch.nn.Module) else model)
    rows = "".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics)
    with new_folder(folder, replace=True) as temporary:
        write_atomic(temporary / "config.json", _json({"format": _FORMAT, **about, "provenance": provenance}))
        write_atomic(temporary / "model.safetensors", tensor_bytes(weights))
        write_atomic(temporary / "tokenizer.json", tokenizer.to_str())
        write_atomic(temporary / "metrics.jsonl", rows)
        for name, content in beside.items():
            write_atomic(temporary / name, content)
        if state is not None:
            write_atomic(temporary / "state/optimiser.safetensors", tensor_bytes({**state.optimiser, "random_state": state.random_state}))
            progress = {"step": step, "sampler": state.sampler, "metrics_bytes": len(rows.encode())}
            write_atomic(temporary / "state/progress.json", _json(progress))
        if regulariser is not None:
            write_atomic(temporary / "state/regulariser.safetensors", tensor_bytes(regulariser.state_dict()))


def load_checkpoint(folder: Path | str) -> Checkpoint:
    """Load a checkpoint, checking every byte against its manifest.

    Args:
        folder: where it lies; "box" is the model that comes with the package, see `hushlm.box`.

    Raises:
        ValueError: one sentence, if the folder is not a checkpoint, incomplete, altered, or written by another format.
    """
    asked = Path(folder)
    folder = checkpoint_folder(current_folder(asked))
    listed = verify_manifest(folder)["files"]
    for name in ("config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"):
        if name not in listed:
            raise ValueError(f"{folder} is not a checkpoint: it has no {name}.")
    config, provenance = _read_config(folder / "config.json")
    model, regulariser = build_model(config)
    _fill(model, folder / "model.safetensors")
    if regulariser is not None:
        if "state/regulariser.safetensors" not in listed:
            raise ValueError(f"{folder} is not a checkpoint of {config.architecture}: it has no state/regulariser.safetensors.")
        _fill(regulariser, folder / "state/regulariser.safetensors")
    return Checkpoint(
        config=replace(config, output=asked),
        model=model.eval(),
        tokenizer=Tokenizer.from_file(folder / "tokenizer.json"),
        regulariser=regulariser,
        metrics=[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        provenance=provenance,
        folder=folder,
    )


def load_training_state(checkpoint: Checkpoint) -> TrainingState:
    """What is needed to go on with the run of a checkpoint just loaded.

    Raises:
        ValueError: if the folder has no usable training state.
    """
    try:
        tensors = load_tensors((checkpoint.folder / "state/optimiser.safetensors").read_bytes())
        progress = read_json(checkpoint.folder / "state/progress.json")
        return TrainingState(random_state=tensors.pop("random_state"), optimiser=tensors, sampler=progress["sampler"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        raise ValueError(f"{checkpoint.folder} has no training state to go on from: start the run anew.") from None


def _read_config(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    try:
        values = read_json(path)
        known, provenance = values.pop("format"), values.pop("provenance")
        step = provenance["step"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not describe a training run: this is not a checkpoint.") from None
    if known != _FORMAT or not isinstance(step, int):
        raise ValueError(f"{path} has format {known}, and this version of hushlm reads format {_FORMAT}.")
    try:
        return RunConfig.from_dict(values), provenance
    except ValueError as error:
        raise ValueError(f"{path} does not describe a run that this version of hushlm knows: {_first_line(error)}.") from None


def _first_line(error: ValueError) -> str:
    """pydantic's message without its table: the field and what is wrong with it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[1:3]).split(" [type=")[0].rstrip(".") if len(lines) > 2 else lines[0].rstrip(".")


def _fill(module: torch.nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_tensors(path.read_bytes()))
    except (RuntimeError, SafetensorError):
        raise ValueError(f"{path} does not hold the weights that config.json beside it describes.") from None


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, allow_nan=False) + "\n"
