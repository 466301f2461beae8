"""Experiments at one scale: which runs they need, in which order, and what came out of them.

Every row is tuned alike: with seed 0 it is trained at each of the scale's learning rates, and the rate with the best validation perplexity
is used for all seeds. What is reported is measured on the test split. A row that only changes a setting of another row (a gamma of a
figure) takes over that row's learning rate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hushlm.config import RunConfig
from hushlm.experiments.experiment import Changes, Experiment, Row, with_changes
from hushlm.experiments.runs import Job, RunRecord, read_record
from hushlm.experiments.scales import Scale

__all__ = ["Outcome", "RowOutcome", "Study", "conduct"]


@dataclass(frozen=True)
class RowOutcome:
    """What a row's runs gave.

    Attributes:
        row: the row, with its architecture's name at this depth.
        learning_rate: the rate chosen; None while not every rate has been tried.
        sweep: the validation perplexity at each rate tried; None where the run was stopped.
        runs: the finished runs at the chosen rate, by seed.
        wanted_seeds: how many runs there should be.
    """

    row: Row
    learning_rate: float | None
    sweep: dict[float, float | None]
    runs: tuple[RunRecord, ...]
    wanted_seeds: int

    @property
    def name(self) -> str:
        """The architecture, with the row's label where it has one."""
        return f"{self.row.architecture} ({self.row.label})" if self.row.label else self.row.architecture

    @property
    def complete(self) -> bool:
        """Whether every seed was run."""
        return len(self.runs) == self.wanted_seeds

    @property
    def perplexity_by_seed(self) -> list[float | None]:
        """The test perplexity of each run; None where it was stopped."""
        return [run.test_perplexity for run in self.runs]

    @property
    def mean_perplexity(self) -> float | None:
        """The mean of the test perplexity over seeds; None if a run was stopped or is missing."""
        found = [value for value in self.perplexity_by_seed if value is not None]
        return statistics.mean(found) if found and len(found) == self.wanted_seeds else None


@dataclass(frozen=True)
class Outcome:
    """What came out of an experiment's rows, as far as they were run.

    Attributes:
        experiment, scale: what was run, and at which scale.
        config: the scale's base at the experiment's sizes.
        rows: in the experiment's order.
    """

    experiment: Experiment
    scale: Scale
    config: RunConfig
    rows: tuple[RowOutcome, ...]

    @property
    def complete(self) -> bool:
        """Whether every row is."""
        return all(row.complete for row in self.rows)

    def finished(self) -> Outcome:
        """The same with the rows alone that are complete.

        Raises:
            ValueError: if there is none.
        """
        rows = tuple(row for row in self.rows if row.complete)
        if not rows:
            raise ValueError(f"No row of {self.experiment.name} is finished: run it without --finished first.")
        return replace(self, rows=rows)

    def find(self, architecture: str, label: str = "") -> RowOutcome | None:
        """The finished row of this name, None if it is not there or not finished."""
        found = [row for row in self.rows if row.row.architecture == architecture and row.row.label == label]
        return found[0] if found and found[0].complete else None


class Study:
    """The runs of some experiments at one scale.

    Args:
        experiments: what is to be shown.
        scale: where it is run.
        folder: where the runs are kept; finished ones in it are used.
        seeds: how many seeds each row has, in place of the scale's number.
        changes: settings of every run that differ from the scale's.
    """

    def __init__(
        self, experiments: Sequence[Experiment], scale: Scale, folder: Path, seeds: int | None = None, changes: Changes = ()
    ) -> None:
        self.experiments = tuple(each.with_one_rate() if scale.one_rate_too else each for each in experiments)
        self.folder = folder
        stress = with_changes(scale.stress, changes) if scale.stress is not None else None
        self.scale = replace(scale, base=with_changes(scale.base, changes), stress=stress)
        self.seeds = seeds or scale.seeds

    def pending(self) -> list[Job]:
        """Jobs that can be made now and were not: each rate to be tried, and further seeds where one is chosen. Empty once all is done."""
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
        """How many runs are still to be made, those whose learning rate is not known yet included."""
        undecided = {
            self._job(experiment, row, 1.0, 0).record
            for experiment in self.experiments
            for row in experiment.rows
            if self._chosen(experiment, row) is None
        }
        return len(self.pending()) + len(undecided) * (self.seeds - 1)

    def outcomes(self) -> list[Outcome]:
        """What came out of every experiment so far."""
        return [
            Outcome(
                experiment,
                self.scale,
                experiment.sized(self.scale.base),
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

    @property
    def _stress(self) -> RunConfig:
        assert self.scale.stress is not None, f"scale {self.scale.name} has no divergence setting"
        return self.scale.stress

    def _seeds(self, row: Row) -> range:
        return range(row.seeds or (1 if row.stress else self.seeds))

    def _config(self, experiment: Experiment, row: Row) -> RunConfig:
        base = experiment.sized(self.scale.base)
        if row.stress:
            base = replace(self._stress, data=base.data)
        return with_changes(replace(base, architecture=row.name(base.shape.layers)), row.changes)

    def _job(self, experiment: Experiment, row: Row, rate: float, seed: int) -> Job:
        config = self._config(experiment, row)
        config = replace(config, training=replace(config.training, learning_rate=rate, seed=seed))
        return Job.of(config, self.folder, self.scale.evaluation_batches, self.scale.checkpoint_every)

    def _sweep(self, experiment: Experiment, row: Row) -> list[Job]:
        if row.stress or row.rate is not None or row.one_rate:
            return []
        plain = row if row.retuned else replace(row, changes=(), label="")
        return [self._job(experiment, plain, rate, 0) for rate in self.scale.learning_rates]

    def _chosen(self, experiment: Experiment, row: Row) -> float | None:
        """The learning rate of a row; None while not every rate has been tried. Where every rate diverged, the lowest."""
        if row.stress:
            return self._stress.training.learning_rate
        if row.rate is not None:
            return row.rate
        if row.one_rate:
            return self._best_for_all(experiment)
        found = []
        for job in self._sweep(experiment, row):
            record = read_record(job)
            if record is None:
                return None
            if record.validation_perplexity is not None:
                found.append((record.validation_perplexity, record.learning_rate))
        return min(found)[1] if found else min(self.scale.learning_rates)

    def _best_for_all(self, experiment: Experiment) -> float | None:
        """The learning rate with the lowest mean validation loss over the rows that share one; None while not all was tried."""
        loss_nats = dict.fromkeys(self.scale.learning_rates, 0.0)
        for row in experiment.rows:
            if not row.one_rate:
                continue
            for job in self._sweep(experiment, replace(row, label="", one_rate=False)):
                record = read_record(job)
                if record is None:
                    return None
                loss_nats[record.learning_rate] += math.log(record.validation_perplexity or math.inf)
        return min(loss_nats, key=lambda rate: (loss_nats[rate], rate))


def conduct(study: Study, make: Callable[[list[Job]], None]) -> None:
    """Let `make` make the pending jobs until none is left. It is called again and again, for what was tried decides what comes next."""
    while jobs := study.pending():
        make(jobs)
        assert all(read_record(job) is not None for job in jobs), "a launcher left a job undone"
