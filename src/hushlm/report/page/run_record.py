"""What a run has recorded, read from where training and `hushlm entropy` leave it.

Legend: L layers, H heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from hushlm.box import checkpoint_folder
from hushlm.config import ModelShape, RunConfig
from hushlm.cost.measured import read_model
from hushlm.files import current_folder, read_json

__all__ = ["RunRecord", "read_run", "read_runs"]

Row = Mapping[str, Any]

End = Literal["finished", "diverged", "not at its end", "measured"]

_ROW_KEYS = {"step", "loss", "head_entropy_nats", "layer_entropy_nats"}


@dataclass(frozen=True)
class RunRecord:
    """A run, or a measurement of `hushlm entropy`.

    Attributes:
        name: what the page calls it.
        source: what was asked for.
        architecture: its name; of a Hugging Face model the type in its config.
        context: T, the tokens a window.
        shape: the model's sizes; None for a measurement, which does not name them.
        settings: the run's settings by dotted name; empty for a measurement.
        corpus: what the text is known by, so that perplexities of two runs can be compared if theirs are equal; None if it is not recorded.
        rows: the rows of metrics.jsonl; a measurement is a single row without a step.
        end: how far the run came.
    """

    name: str
    source: Path
    architecture: str
    context: int
    shape: ModelShape | None
    settings: dict[str, Any]
    corpus: str | None
    rows: tuple[Row, ...]
    end: End

    @property
    def observed(self) -> list[Row]:
        """The rows that have head entropies."""
        return [row for row in self.rows if row.get("head_entropy_nats")]


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read several runs and give each a name of its own: as much of the end of its path as tells it from the others.

    Raises:
        ValueError: in one sentence, if there is no path, one is given twice, or one is not a run with at least one row.
    """
    if not paths:
        raise ValueError("A report needs at least one run: name the --output folder of a training.")
    places = [path.resolve() for path in paths]
    for place, path in zip(places, paths, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{path} is named twice: name each run once.")
    names = _names(places)
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str | None = None) -> RunRecord:
    """Read one run.

    Args:
        path: the `--output` of a training, finished, going on or diverged; or a file that `hushlm entropy --json` printed.
        name: what to call it; the end of its path by default.

    Raises:
        ValueError: in one sentence, if it is neither, is damaged, or has no row yet.
    """
    name = name or path.resolve().name
    record = _measurement(path, name) if path.is_file() else _training(path, name)
    if not record.rows:
        raise ValueError(f"{path} has no recorded step yet: wait until the training has made its first update.")
    return record


def _training(path: Path, name: str) -> RunRecord:
    """The rows are those of the file that was written last: of the checkpoint, or beside it while a run goes on or after it diverged."""
    folder = checkpoint_folder(current_folder(path))
    beside = {kind: path.absolute().with_name(f"{path.absolute().name}.{kind}") for kind in ("diverged.jsonl", "metrics.jsonl", "run.yaml")}
    found = [file for file in (beside["diverged.jsonl"], folder / "metrics.jsonl") if file.is_file()]
    if beside["run.yaml"].is_file() and beside["metrics.jsonl"].is_file():
        found.append(beside["metrics.jsonl"])
    if folder.is_dir() and not (folder / "metrics.jsonl").is_file():
        read_model(folder)  # says what the folder is instead
        raise ValueError(f"{path} has no metrics.jsonl: name the --output folder of a training.")
    if not found:
        raise ValueError(f"There is no run {path}: name the --output folder of a training, or a file that `hushlm entropy --json` printed.")
    newest = max(found, key=lambda file: file.stat().st_mtime_ns)
    corpus = None
    if newest.parent == folder or not beside["run.yaml"].is_file():
        architecture, shape = read_model(folder)
        settings = read_json(folder / "config.json")
        corpus = settings.pop("provenance", {}).get("corpus_fingerprint")
        settings.pop("format", None)
    else:
        config = _settings(beside["run.yaml"])
        architecture, shape, settings = str(config.parsed_architecture), config.shape, config.to_dict()
    settings.pop("output", None)
    rows = _rows(newest, shape)
    end: End = "diverged"
    if newest != beside["diverged.jsonl"]:
        end = "finished" if rows and rows[-1]["step"] == settings["training"]["steps"] else "not at its end"
    return RunRecord(name, path, architecture, shape.context, shape, _dotted(settings), corpus, rows, end)


def _measurement(path: Path, name: str) -> RunRecord:
    try:
        document = json.loads(path.read_bytes())
        heads = [[float(nats) for nats in row] for row in document["head_entropy_nats_LH"]]
        layers = [sum(row) / len(row) for row in heads]
        verdict = {key: document[key] for key in ("overload", "overloaded_layers", "collapse", "collapsed_layers", "share_per_range")}
        row = {"step": None, "head_entropy_nats": heads, "layer_entropy_nats": layers, **verdict}
        if len({len(heads_of_layer) for heads_of_layer in heads}) != 1:
            raise ValueError
        return RunRecord(name, path, str(document["architecture"]), int(document["context"]), None, {}, None, (row,), "measured")
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
        raise ValueError(
            f"{path} is not a measurement: give a file that `hushlm entropy CHECKPOINT --json` printed, or the folder of a run."
        ) from None


def _settings(path: Path) -> RunConfig:
    try:
        return RunConfig.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        raise ValueError(f"{path} does not hold the settings of a run: restore it from a copy, or name the checkpoint's folder.") from None


def _rows(path: Path, shape: ModelShape) -> tuple[Row, ...]:
    text = path.read_bytes()
    # A run that is going on may be in the middle of its last line, which is no row yet.
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        for row in rows:
            heads = row["head_entropy_nats"]
            if not row.keys() >= _ROW_KEYS or (len(heads), len(heads[0])) != (shape.layers, shape.heads):
                raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise ValueError(f"{path} does not hold the rows of this run's training: restore the folder from a copy, or train again.") from None
    return tuple(rows)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _names(places: Sequence[Path]) -> list[str]:
    for parts in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-parts:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]
