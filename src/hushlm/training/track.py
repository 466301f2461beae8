"""Optional trackers: the numbers of each metrics row, sent to TensorBoard or Weights & Biases as well. Off by default."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Tracker", "open_tracker", "scalars"]


class Tracker(Protocol):
    """Where rows are sent."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a metrics row."""

    def close(self) -> None:
        """Send what waits; no row follows."""


def open_tracker(kind: Literal["none", "tensorboard", "wandb"], output: Path, step: int, settings: Mapping[str, Any]) -> Tracker | None:
    """The tracker of `training.track`, None for "none".

    TensorBoard reads the folder `<output>.tensorboard`. Weights & Biases gets one run a name of `output`, continued on resuming, in the
    project "hushlm"; where it lies and who may see it is up to its own settings (WANDB_MODE=offline keeps it here).

    Args:
        kind: which tracker.
        output: folder of the checkpoint.
        step: updates made so far; rows after it, of an earlier attempt, no longer count.
        settings: the run's settings, for the tracker's own page.

    Raises:
        ValueError: if its package is not installed.
    """
    match kind:
        case "none":
            return None
        case "tensorboard":
            if importlib.util.find_spec("tensorboard") is None:
                raise ValueError("training.track = tensorboard needs tensorboard, which is not installed: pip install 'hushlm[tracking]'.")
            return _TensorBoard(output, step)
        case "wandb":
            if importlib.util.find_spec("wandb") is None:
                raise ValueError("training.track = wandb needs wandb, which is not installed: pip install wandb.")
            return _WeightsAndBiases(output, settings)


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row under flat names: "loss", "layer_entropy_nats/3", "head_entropy_nats/3/0", "temperature/mean"."""
    return {name: float(value) for name, value in _flat("", row) if name != "step"}


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        if name.endswith("ed_layers"):  # a list of layers, as long as it happens to be: the verdict is a number of its own
            return
        for index, inner in enumerate(value):
            yield from _flat(f"{name}/{index}", inner)
    elif isinstance(value, int | float):
        yield name, value


class _TensorBoard:
    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = output.absolute().with_name(f"{output.name}.tensorboard")
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, global_step=row["step"])

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(project="hushlm", name=output.name, id=output.name, resume="allow", config=dict(settings))

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()
