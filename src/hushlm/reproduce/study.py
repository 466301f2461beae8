"""An experiment at a preset: which runs it needs, in which order, and what came out of them.

Every row is tuned alike: the preset's learning rates with seed 0, the best on the validation split kept for all seeds. What is
reported is measured on the test split. A row that only changes a setting of another (a gamma of a figure) takes over its learning rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hushlm.config import RunConfig
from hushlm.reproduce.experiments import Experiment, Row
from hushlm.reproduce.presets import Preset
from hushlm.reproduce.runs import Job, RunRecord, read_record

__all__ = ["Outcome", "RowOutcome", "Study", "conduct", "with_changes"]

Changes = Sequence[tuple[str, Any]]
"""Settings as (dotted name, value)."""


@dataclass(frozen=True)
class RowOutcome:
    """What a row's runs gave.

    Attributes:
        row: with its architecture's name at this depth.
        learning_rate: chosen; None while the sweep is not finished.
        sweep: validation perplexity by learning rate, None where a run was stopped.
        runs: at the chosen rate, by seed.
        wanted_seeds: how many there should be.
    """

    row: Row
    learning_rate: float | None
    sweep: dict[float, float | None]
    runs: tuple[RunRecord, ...]
    wanted_seeds: int

    @property
    def name(self) -> str:
        return f"{self.row.architecture} ({self.row.label})" if self.row.label else self.row.architecture

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.wanted_seeds

    @property
    def perplexity_by_seed(self) -> list[float | None]:
        return [run.test_perplexity for run in self.runs]

    @property
    def mean_perplexity(self) -> float | None:
        """Over seeds; None if a seed was stopped or is missing."""
        found = [value for value in self.perplexity_by_seed if value is not None]
        return statistics.mean(found) if found and len(found) == self.wanted_seeds else None


@dataclass(frozen=True)
class Outcome:
    """An experiment's rows as far as they were run."""

    experiment: Experiment
    preset: Preset
    config: RunConfig
    rows: tuple[RowOutcome, ...]

    @property
    def complete(self) -> bool:
        return all(row.complete for row in self.rows)

    def find(self, architecture: str, label: str = "") -> RowOutcome | None:
        """The finished row of this name, None if it is not there or not finished."""
        found = [row for row in self.rows if row.row.architecture == architecture and row.row.label == label]
        return found[0] if found and found[0].complete else None


class Study:
    """The runs of some experiments at one preset."""

    def __init__(
        self, experiments: Sequence[Experiment], preset: Preset, folder: Path, seeds: int | None = None, changes: Changes = ()
    ) -> None:
        """
        Args:
            experiments: what is to be shown.
            preset: at which scale.
            folder: of the runs; finished ones in it are used.
            seeds: instead of the preset's.
            changes: settings of every run that differ from the preset's, as (dotted name, value).
        """
        self.experiments = tuple(experiments)
        self.folder = folder
        self.preset = replace(preset, base=with_changes(preset.base, changes), stress=with_changes(preset.stress, changes))
        self.seeds = seeds or preset.seeds

    def pending(self) -> list[Job]:
        """Jobs that can be made now and were not: sweeps, and the other seeds of rows whose sweep is finished. Empty: all is done."""
        jobs: dict[Path, Job] = {}
        for experiment in self.experiments:
            for row in experiment.rows:
                for job in self._sweep(experiment, row):
                    jobs[job.record] = job
                if (rate := self._chosen(experiment, row)) is not None:
                    for seed in self._seeds(row):
                        job = self._job(experiment, row, rate, seed)
                        jobs[job.record] = job
        return [job for job in jobs.values() if read_record(job) is None]

    def remaining(self) -> int:
        """Runs still to be made, those whose learning rate is not known yet included."""
        undecided = {
            self._job(experiment, row, 1.0, 0).record
            for experiment in self.experiments
            for row in experiment.rows
            if self._chosen(experiment, row) is None
        }
        return len(self.pending()) + len(undecided) * (self.seeds - 1)

    def outcomes(self) -> list[Outcome]:
        """What every experiment has so far."""
        return [
            Outcome(
                experiment,
                self.preset,
                experiment.sized(self.preset.base),
                tuple(self._row_outcome(experiment, row) for row in experiment.rows),
            )
            for experiment in self.experiments
        ]

    def _row_outcome(self, experiment: Experiment, row: Row) -> RowOutcome:
        rate = self._chosen(experiment, row)
        sweep = {job.config.training.learning_rate: read_record(job) for job in self._sweep(experiment, row)}
        runs = [read_record(self._job(experiment, row, rate, seed)) for seed in self._seeds(row)] if rate is not None else []
        layers = self._config(experiment, row).shape.layers
        return RowOutcome(
            replace(row, architecture=row.name(layers)),
            rate,
            {rate: record.validation_perplexity for rate, record in sweep.items() if record is not None},
            tuple(record for record in runs if record is not None),
            len(self._seeds(row)),
        )

    def _seeds(self, row: Row) -> range:
        return range(row.seeds or (1 if row.stress else self.seeds))

    def _config(self, experiment: Experiment, row: Row) -> RunConfig:
        if row.stress:
            base = replace(self.preset.stress, data=experiment.sized(self.preset.base).data)
        else:
            base = experiment.sized(self.preset.base)
        return with_changes(replace(base, architecture=row.name(base.shape.layers)), row.changes)

    def _job(self, experiment: Experiment, row: Row, rate: float, seed: int) -> Job:
        config = self._config(experiment, row)
        config = replace(config, training=replace(config.training, learning_rate=rate, seed=seed))
        return Job.of(config, self.folder, self.preset.evaluation_batches, self.preset.checkpoint_every)

    def _sweep(self, experiment: Experiment, row: Row) -> list[Job]:
        if row.stress or row.rate is not None:
            return []
        plain = row if row.retuned else replace(row, changes=(), label="")
        return [self._job(experiment, plain, rate, 0) for rate in self.preset.learning_rates]

    def _chosen(self, experiment: Experiment, row: Row) -> float | None:
        """The learning rate of a row; None while its sweep is not finished. Where every rate diverged, the lowest."""
        if row.stress:
            return self.preset.stress.training.learning_rate
        if row.rate is not None:
            return row.rate
        found = []
        for job in self._sweep(experiment, row):
            record = read_record(job)
            if record is None:
                return None
            if record.validation_perplexity is not None:
                found.append((record.validation_perplexity, record.learning_rate))
        return min(found)[1] if found else min(self.preset.learning_rates)


def with_changes(config: RunConfig, changes: Changes) -> RunConfig:
    """A config with dotted settings replaced.

    Raises:
        ValueError: for a setting that does not exist or a value it cannot have.
    """
    values = config.to_dict()
    for name, value in changes:
        section = values
        *path, last = name.split(".")
        for part in path:
            section = section.get(part, {})
        if last not in section:
            raise ValueError(f"There is no setting {name}.")
        section[last] = value
    return RunConfig.from_dict(values)


def conduct(study: Study, make: Callable[[list[Job]], None]) -> None:
    """Let `make` make the pending jobs, again and again, until none is left: the sweeps decide what comes next."""
    while jobs := study.pending():
        make(jobs)
        assert all(read_record(job) is not None for job in jobs), "a launcher left a job undone"
