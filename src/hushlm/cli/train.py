"""`hushlm train`."""

from __future__ import annotations

import json as json_format
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from hushlm.config import DataConfig, EntropyConfig, ModelShape, RunConfig, TrainingConfig

if TYPE_CHECKING:
    from hushlm.data import TokenStore
    from hushlm.training import Divergence, Interrupted, Preempted, StepRecord, TrainingResult, World

__all__ = ["StepReporter", "emit", "ended_early", "run_file", "train"]

EVENT_EVERY_SECONDS = 0.2

_Progress = Literal["auto", "json", "none"]


def train(
    architecture: str = RunConfig.architecture,
    shape: ModelShape = ModelShape(),
    data: DataConfig = DataConfig(),
    training: TrainingConfig = TrainingConfig(),
    entropy: EntropyConfig = EntropyConfig(),
    output: Path = RunConfig.output,
    resume: str | None = None,
    checkpoint_every: int | None = None,
    progress: _Progress = "auto",
    json: bool = False,
) -> int:
    """Train an architecture, from scratch or from another checkpoint's weights, and write a checkpoint.

    The resolved settings are saved in the checkpoint (config.json) and beside it (OUTPUT.run.yaml), ready for `--config`. A run
    that diverges is stopped before the update that would spoil the weights; the exit code is then 1. SIGTERM saves a checkpoint
    and ends with 0, Ctrl-C saves one as well and ends with 130.

    Several processes: torchrun --nproc-per-node 2 -m hushlm train --training.parallel ddp ...

    Args:
        architecture: a name, see `hushlm architectures`.
        shape: sizes of the model
        data: corpus and tokenizer
        training: optimisation
        entropy: entropy regulariser (used by EReg architectures) and temperature
        output: folder of the checkpoint; an earlier checkpoint there is replaced.
        resume: "auto" to go on from the last whole checkpoint at OUTPUT, if there is one; or the folder of a checkpoint of the same run.
        checkpoint_every: updates between checkpoints on the way; only the final one by default.
        progress: "auto" (bars on a terminal, lines elsewhere), "json" (one event a line on standard output), or "none".
        json: print the result as one JSON document.
    """
    from hushlm.training import open_world

    config = RunConfig(architecture=architecture, shape=shape, data=data, training=training, entropy=entropy, output=output)
    with open_world(training) as world:
        try:
            return _train(config, world, resume, checkpoint_every, progress if world.rank == 0 else "none", json and world.rank == 0)
        except ValueError:
            if world.rank > 0:  # the first process says it
                return 2
            raise


def _train(config: RunConfig, world: World, resume: str | None, checkpoint_every: int | None, progress: _Progress, json: bool) -> int:
    from hushlm.cli.reading import open_and_tell
    from hushlm.data import open_token_store
    from hushlm.files import check_replaceable, one_writer, write_atomic
    from hushlm.training import Divergence, Interrupted, Preempted, with_fingerprints
    from hushlm.training import train as run_training

    opened: list[TokenStore] = []

    def prepare() -> None:
        check_replaceable(config.output)
        values = with_fingerprints(config).to_dict()
        opened.append(open_and_tell(config.data, quiet=progress != "auto"))
        if config.training.start is None:
            values["shape"]["vocabulary"] = opened[0].vocabulary
        if resume is None or not run_file(config.output).exists():  # a refused resume must not change another run's settings
            with one_writer(config.output):
                write_atomic(run_file(config.output), yaml.safe_dump(values, sort_keys=False))

    world.first(prepare)
    store = opened[0] if opened else open_token_store(config.data)
    reporter = StepReporter(str(config.parsed_architecture), config.training.steps, progress)
    resume_from: Path | Literal["auto"] | None = "auto" if resume == "auto" else Path(resume) if resume is not None else None
    try:
        with reporter:
            result = run_training(config, store, on_step=reporter.step, resume_from=resume_from, checkpoint_every=checkpoint_every)
    except (Divergence, Preempted, Interrupted) as ended:
        return ended_early(ended, config.training.steps, events=progress == "json", json=json, first=world.rank == 0)
    summary = {**_summary(result), "corpus": store.report.to_dict()}
    if progress == "json":
        emit({"event": "done", **summary})
    elif json:
        _print_json(summary)
    elif world.rank == 0:
        _print_summary(summary)
    return 0


def ended_early(ended: Divergence | Preempted | Interrupted, steps: int, *, events: bool, json: bool, first: bool) -> int:
    """Say why a training ended before its last step. Returns: the exit code.

    Args:
        ended: what `hushlm.training.train` raised.
        steps: how many updates were wanted.
        events: whether other programs read one event a line.
        json: whether one JSON document is wanted.
        first: whether this process is the one that speaks.
    """
    from hushlm.training import Divergence, Interrupted

    event: dict[str, Any]
    if isinstance(ended, Divergence):
        event = {"event": "diverged", "step": ended.step, "layers": list(ended.layers), "reason": ended.reason}
        said, code = ended.reason, 1
    else:
        event = {"event": "stopped", "step": ended.step, "steps": steps, "checkpoint": str(ended.folder)}
        said, code = str(ended), 130 if isinstance(ended, Interrupted) else 0
    if events:
        emit(event)
    elif json:
        _print_json(event)
    if first:
        print(f"hushlm: {said}", file=sys.stderr)
    return code


def run_file(output: Path) -> Path:
    """Where the resolved settings of a run lie: beside its checkpoint, whose own files are sealed by a manifest."""
    return output.with_name(f"{output.name}.run.yaml")


class StepReporter:
    """Tells a reader, or another program, how far a run is."""

    def __init__(self, name: str, steps: int, kind: _Progress) -> None:
        from hushlm.report.run_progress import RunsProgress

        self._name, self._kind = name, kind
        self._bars = RunsProgress({name: steps}) if kind == "auto" else None
        self._perplexity: float | None = None
        self._last = -math.inf
        self.step: Callable[[StepRecord], None] | None = None if kind == "none" else self._step

    def __enter__(self) -> StepReporter:
        if self._bars is not None:
            self._bars.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bars is not None:
            self._bars.__exit__(*error)

    def _step(self, record: StepRecord) -> None:
        validated = record.row is not None and "validation_perplexity" in record.row
        if record.row is not None and validated:
            self._perplexity = record.row["validation_perplexity"]
        if not validated and time.monotonic() - self._last < EVENT_EVERY_SECONDS:
            return
        self._last = time.monotonic()
        if self._bars is not None:
            seen = f", validation perplexity {self._perplexity:.2f}" if self._perplexity is not None else ""
            self._bars.update(self._name, record.step, f"loss {record.loss:.3f}{seen}")
        else:
            emit({"event": "step", "step": record.step, "steps": record.steps, "loss": record.loss, "perplexity": self._perplexity})


def _summary(result: TrainingResult) -> dict[str, Any]:
    return {
        "architecture": result.config.architecture,
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "steps": result.config.training.steps,
        "seed": result.config.training.seed,
        "validation_loss_nats": result.evaluation.loss_nats,
        "validation_perplexity": result.evaluation.perplexity if math.isfinite(result.evaluation.perplexity) else None,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "checkpoint": str(result.folder),
        "settings": str(run_file(result.folder)),
    }


def _print_summary(summary: dict[str, Any]) -> None:
    from hushlm.report.table import Column, Table, print_table

    columns = (
        Column("architecture", "architecture"),
        Column("parameters", "parameters", ",", "right"),
        Column("steps", "steps", ",", "right"),
        Column("validation_loss_nats", "validation loss (nats)", ".4f", "right"),
        Column("validation_perplexity", "perplexity", ".3f", "right"),
        Column("seconds", "seconds", ".0f", "right"),
        Column("checkpoint", "checkpoint"),
    )
    note = f"Look into it: hushlm entropy {summary['checkpoint']}"
    print_table(Table(f"Trained, seed {summary['seed']}", columns, [summary], note))


def emit(event: dict[str, Any]) -> None:
    """One event a line, for other programs."""
    print(json_format.dumps(event), flush=True)


def _print_json(document: dict[str, Any]) -> None:
    from hushlm.report.table import print_json

    print_json(document)
