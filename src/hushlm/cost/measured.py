"""Models whose perplexity was measured, to be compared with their prices: checkpoints, and committed results of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost.network import WAN, Network
from hushlm.cost.pricing import Amount, price_total
from hushlm.files import current_folder, read_json, verify_manifest
from hushlm.plan import ProtocolSettings, prefill_plan

__all__ = ["MeasuredModel", "price_measured", "read_checkpoint", "read_model", "read_results"]


@dataclass(frozen=True)
class MeasuredModel:
    """A model and its measured perplexity. Only perplexities of the same `task` can be compared.

    Attributes:
        architecture, shape: what the model is and how large it is.
        perplexity: the perplexity per token of the task's tokenizer.
        task: what the model was measured on: the corpus, the number of token ids, the split and the steps of training.
        seeds: how many runs the perplexity is the mean of.
        source: the file or folder that the perplexity was read from.
    """

    architecture: str
    shape: ModelShape
    perplexity: float
    task: str
    seeds: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The model as plain JSON values."""
        return asdict(self)


def read_checkpoint(folder: Path) -> MeasuredModel:
    """The last validation of a checkpoint. It needs no torch, and every byte is checked against the manifest.

    Raises:
        ValueError: in one sentence, if the folder is not a complete checkpoint, or if the model was never validated.
    """
    try:
        config, inside = _configuration(folder), current_folder(folder)
        rows = [json.loads(line) for line in (inside / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        validated = [row["validation_perplexity"] for row in rows if row.get("validation_perplexity") is not None]
        if not validated:
            raise ValueError(f"{folder} was never validated: it has no perplexity to show.")
        provenance, shape = config["provenance"], _shape(config["shape"])
        task = _task(provenance["corpus_fingerprint"], shape, "validation", provenance["step"])
        return MeasuredModel(str(parse(config["architecture"])), shape, float(validated[-1]), task, 1, str(folder))
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{folder} is not a checkpoint of this version of hushlm ({_first_line(error)}).") from None


def read_model(folder: Path) -> tuple[str, ModelShape]:
    """The architecture's name and the shape of a checkpoint, whether it was validated or not. It needs no torch.

    Raises:
        ValueError: in one sentence, if the folder is not a complete checkpoint.
    """
    try:
        config = _configuration(folder)
        return str(parse(config["architecture"])), _shape(config["shape"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{folder} is not a checkpoint of this version of hushlm ({_first_line(error)}).") from None


def _configuration(folder: Path) -> dict[str, Any]:
    """What a checkpoint's config.json holds, after every file has been checked against the manifest."""
    inside = current_folder(folder)
    verify_manifest(inside)
    found: dict[str, Any] = read_json(inside / "config.json")
    return found


def read_results(path: Path) -> list[MeasuredModel]:
    """The mean test perplexity of each architecture, from a file that `benchmarks/kernels.py` wrote.

    Raises:
        ValueError: in one sentence, if the file is not one of these.
    """
    try:
        document = read_json(path)
        shape = _shape(document["settings"]["shape"])
        found = []
        for row in document["rows"]:
            runs = row["runs"]
            task = _task(runs[0]["corpus"], shape, "test", runs[0]["steps"])
            perplexity = mean(float(run["test_perplexity"]) for run in runs)
            found.append(MeasuredModel(str(parse(row["architecture"])), shape, perplexity, task, len(runs), str(path)))
        return found
    except (OSError, KeyError, TypeError, IndexError, json.JSONDecodeError, ValidationError) as error:
        raise ValueError(
            f"{path} does not hold measured perplexities as `python benchmarks/kernels.py` writes them ({_first_line(error)})."
        ) from None


def price_measured(
    models: Sequence[MeasuredModel], network: Network = WAN, settings: ProtocolSettings | None = None
) -> list[tuple[MeasuredModel, Amount]]:
    """Each model with the price of its private pass over a full context."""
    return [
        (model, price_total(prefill_plan(parse(model.architecture), model.shape, model.shape.context), settings, network))
        for model in models
    ]


def _shape(values: dict[str, Any]) -> ModelShape:
    return TypeAdapter(ModelShape).validate_python(values)


def _task(corpus: str, shape: ModelShape, split: str, steps: int) -> str:
    return f"corpus {corpus[:8]}, {shape.vocabulary:,} token ids, T={shape.context}, {split}, {steps:,} steps"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
