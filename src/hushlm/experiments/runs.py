"""One training run of an experiment: known by its settings, recorded once, never trained again.

A run's folder describes itself. It holds the checkpoint with its resolved settings, and record.json, which is written last.

Legend: L layers, H heads, T tokens of the context.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hushlm.architectures import slug
from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.files import write_atomic
from hushlm.training import Divergence, evaluate, train, with_fingerprints
from hushlm.training.resume import MAY_DIFFER
from hushlm.training.world import linear_algebra_threads

__all__ = ["Job", "RunRecord", "read_record", "run", "run_key"]

COURSE_POINTS = 60
"""About how many records of the layers' entropies are kept of a run."""

_NOT_SETTINGS = {("output",), ("data", "cache"), ("data", "workers"), *(("training", name) for name in MAY_DIFFER)}
"""Where files lie and how a run is computed: settings that do not make another run."""

_OF_FINISHED_RUNS = ("validation_perplexity", "test_perplexity", "head_entropy_nats", "thresholds", "cpu_seconds")


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run, as plain JSON values.

    Attributes:
        architecture: its name.
        settings: the settings of the run, resolved.
        corpus: the name and the fingerprint of the tokens it was trained on.
        stopped_at_step: the update that the entropy watch refused; None for a run that ended well.
        collapsed_layers: the layers whose entropy had fallen to zero when it was stopped.
        reason: why it was stopped, as a sentence; "" for a run that ended well.
        validation_perplexity: what a learning rate is chosen by; None where the run was stopped, or not finite.
        test_perplexity: the perplexity on a split that nothing is chosen by; None like the one before.
        head_entropy_nats: L x H, the mean entropy of each head on the test split; None where the run was stopped.
        course: the layers' entropies during the run as {steps, layer_entropy_nats}, thinned to about `COURSE_POINTS` records.
        thresholds: L x H, the learned thresholds as shares of log T; None without the regulariser, and where the run was stopped.
        cpu_seconds: processor time of the training loop; None where the run was stopped.
        versions: the version of each package that made it, by name.
    """

    architecture: str
    settings: dict[str, Any]
    corpus: dict[str, str]
    stopped_at_step: int | None
    collapsed_layers: list[int]
    reason: str
    validation_perplexity: float | None
    test_perplexity: float | None
    head_entropy_nats: list[list[float]] | None
    course: dict[str, Any]
    thresholds: list[list[float]] | None
    cpu_seconds: float | None
    versions: dict[str, str]

    @property
    def seed(self) -> int:
        """The seed of weights and data order."""
        return self.settings["training"]["seed"]

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        return self.settings["training"]["learning_rate"]


@dataclass(frozen=True)
class Job:
    """A run to be made, as it is handed to other processes and machines.

    Attributes:
        config: the settings of the run; its output is the checkpoint's folder.
        record: where the record goes.
        evaluation_batches: how many batches of the test split are read at most.
        checkpoint_every: how many updates lie between checkpoints; None for none before the last.
    """

    config: RunConfig
    record: Path
    evaluation_batches: int
    checkpoint_every: int | None

    @staticmethod
    def of(config: RunConfig, folder: Path, evaluation_batches: int, checkpoint_every: int | None) -> Job:
        """The job of a config, in a folder of its own below `folder`. Where the config has a teacher, its checkpoint has to be there."""
        config = with_fingerprints(config)
        place = folder / f"{slug(config.architecture)}-{run_key(config)}"
        return Job(replace(config, output=place / "checkpoint"), place / "record.json", evaluation_batches, checkpoint_every)


def run_key(config: RunConfig) -> str:
    """Ten hexadecimal digits that stand for the settings.

    Settings at their default count for nothing, so that a setting added later leaves old keys as they are. A teacher counts by its
    fingerprint, which is read from its folder where the config does not have it.
    """
    changed = sorted(_changed(with_fingerprints(config).to_dict(), RunConfig().to_dict(), ()))
    return hashlib.sha256(json.dumps([config.architecture, changed]).encode()).hexdigest()[:10]


def _changed(values: dict[str, Any], defaults: dict[str, Any], path: tuple[str, ...]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        where = (*path, name)
        if where in _NOT_SETTINGS:
            continue
        if isinstance(value, dict):
            found += _changed(value, defaults[name], where)
        elif value != defaults[name]:
            found.append((".".join(where), json.dumps(value)))
    return found


def read_record(job: Job) -> RunRecord | None:
    """The record of a finished job; None if there is none.

    Raises:
        ValueError: in one sentence, if the file is damaged or the record of another run.
    """
    if not job.record.is_file():
        return None
    try:
        record = RunRecord(**json.loads(job.record.read_text(encoding="utf-8")))
        same = run_key(RunConfig.from_dict(record.settings)) == run_key(job.config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{job.record} is not a run's record: remove its folder, and the run is made again.") from error
    if not same:
        raise ValueError(f"{job.record} is the record of other settings: remove its folder, and the run is made again.")
    return record


def run(job: Job) -> RunRecord:
    """Train and evaluate, or read what an earlier call found. The record is written last.

    Raises:
        ValueError: in one sentence, for a corpus or a folder that cannot be used.
    """
    if (found := read_record(job)) is not None:
        return found
    config = job.config
    store = open_token_store(config.data)
    stopped: Divergence | None = None
    values: dict[str, Any] = dict.fromkeys(_OF_FINISHED_RUNS)
    try:
        result = train(config, store, resume_from="auto", checkpoint_every=job.checkpoint_every)
    except Divergence as divergence:
        stopped = divergence
        metrics = divergence.metrics
    else:
        metrics = result.metrics
        # A run keeps to its own cores, since several are made at once.
        with linear_algebra_threads(config):
            test = evaluate(result.model, store.tokens["test"], config.training.batch, config.shape.context, job.evaluation_batches)
        values |= {
            "validation_perplexity": _finite(result.evaluation.perplexity),
            "test_perplexity": _finite(test.perplexity),
            "head_entropy_nats": [[round(nats, 5) for nats in row] for row in test.head_entropy_nats_LH.tolist()],
            "cpu_seconds": round(result.cpu_seconds, 1),
        }
        if result.regulariser is not None:
            values["thresholds"] = [[round(share, 5) for share in row] for row in result.regulariser.threshold_LH.tolist()]
    record = RunRecord(
        architecture=config.architecture,
        settings=config.to_dict(),
        corpus={"name": store.corpus_name, "fingerprint": store.fingerprint},
        stopped_at_step=stopped.step if stopped else None,
        collapsed_layers=list(stopped.layers) if stopped else [],
        reason=stopped.reason if stopped else "",
        course=_course(metrics),
        versions={package: version(package) for package in ("hushlm", "torch", "tokenizers")},
        **values,
    )
    job.record.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(job.record, json.dumps(asdict(record), allow_nan=False))
    return record


def _course(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Records at equal distances, and the last one."""
    rows = [row for row in metrics if row["layer_entropy_nats"] and all(map(math.isfinite, row["layer_entropy_nats"]))]
    every = max(1, math.ceil(len(rows) / COURSE_POINTS))
    kept = rows[::every] + ([rows[-1]] if rows and (len(rows) - 1) % every else [])
    return {
        "steps": [row["step"] for row in kept],
        "layer_entropy_nats": [[round(nats, 4) for nats in row["layer_entropy_nats"]] for row in kept],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
