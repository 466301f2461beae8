"""The search, with Optuna. Every trial is a run known by its settings, so that a repeated one costs nothing.

Several objectives are to be small: the validation loss in nats after an equal number of tokens, and the predicted costs of a private token
at GPT-2 small's scale (`contest.objective`). The study is a journal file in the folder of runs; an interrupted search goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushlm.config import RunConfig
from hushlm.experiments.contest.objective import OBJECTIVES, costs_of
from hushlm.experiments.contest.space import start, starts, suggest
from hushlm.experiments.launch import Workers
from hushlm.experiments.runs import Job, RunRecord, read_record
from hushlm.experiments.scales import ContestScale

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "Trial"]

STARTUP_TRIALS = 20
"""How many trials are drawn at random before the sampler relies on its model of what is good."""


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: trials are counted from 0 in the order they were begun.
        config: the settings of its run.
        loss_nats: the loss on the validation split; that of a uniform guess, the logarithm of the vocabulary, where training was stopped.
        costs: of a private token at GPT-2 small's scale, as the scale's objective has them.
        parameters: what the trial chose, by name.
    """

    number: int
    config: RunConfig
    loss_nats: float
    costs: tuple[float, ...]
    parameters: dict[str, Any]


class Search:
    """The search at a scale.

    Args:
        scale: where the trials are run.
        folder: where the runs and the journal are kept.

    Raises:
        ModuleNotFoundError: without Optuna.
    """

    def __init__(self, scale: ContestScale, folder: Path) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("The search needs Optuna: pip install 'hushlm[frontier]'.", name="optuna") from error
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.scale, self.folder = scale, folder
        self._states = optuna.trial.TrialState
        folder.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            study_name=f"frontier-{scale.name}",
            storage=JournalStorage(JournalFileBackend(str(folder / "frontier.journal"))),
            directions=["minimize"] * (1 + len(OBJECTIVES[scale.objective].costs)),
            # A "constant liar" counts trials under way as bad ones, so that several at once are not alike.
            sampler=optuna.samplers.TPESampler(seed=scale.base.training.seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True),
            load_if_exists=True,
        )

    def trials(self) -> list[Trial]:
        """The finished trials, in the order they were begun."""
        found = []
        for trial in self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,)):
            loss, *costs = trial.values
            found.append(Trial(trial.number, self._replayed(trial), loss, tuple(costs), dict(trial.params)))
        return found

    def run(self, trials: int, workers: Workers) -> Iterator[tuple[int, Trial]]:
        """Go on until so many trials are finished.

        Yields: how many are finished, and the trial that just was.
        """
        under_way: dict[Path, tuple[int, Job]] = {}

        def jobs() -> Iterator[Job]:
            interrupted = self._interrupted()
            while self._finished() + len(under_way) < trials:
                number, job = next(interrupted, None) or self._next()
                if (record := read_record(job)) is not None:  # a trial with the same settings was made before
                    self._tell(number, job, record)
                elif job.record in under_way:  # of two alike the later one is given up
                    self._study.tell(number, state=self._states.FAIL)
                else:
                    under_way[job.record] = number, job
                    yield job

        for values in starts(self.scale.name):
            self._study.enqueue_trial(start(values, self.scale), skip_if_exists=True)
        for job, record in workers.launch(jobs()):
            trial = self._tell(*under_way.pop(job.record), record)
            yield self._finished(), trial

    def _finished(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,)))

    def _next(self) -> tuple[int, Job]:
        trial = self._study.ask()
        return trial.number, self._job(suggest(trial, self.scale))

    def _interrupted(self) -> Iterator[tuple[int, Job]]:
        """The trials that were under way when an earlier call ended."""
        for trial in self._study.get_trials(states=(self._states.RUNNING,)):
            try:
                config = self._replayed(trial)
            except ValueError:  # killed between two of its choices
                self._study.tell(trial.number, state=self._states.FAIL)
                continue
            yield trial.number, self._job(config)

    def _job(self, config: RunConfig) -> Job:
        return Job.of(config, self.folder, self.scale.evaluation_batches, self.scale.checkpoint_every)

    def _tell(self, number: int, job: Job, record: RunRecord) -> Trial:
        perplexity = record.validation_perplexity
        loss = math.log(perplexity) if perplexity is not None else math.log(record.settings["shape"]["vocabulary"])
        costs = costs_of(job.config, self.scale)
        told = self._study.tell(number, [loss, *costs])
        return Trial(number, job.config, loss, costs, dict(told.params))

    def _replayed(self, trial: optuna.trial.FrozenTrial) -> RunConfig:
        import optuna

        return self._job(suggest(optuna.trial.FixedTrial(trial.params), self.scale)).config  # type: ignore[arg-type]
