"""The search, on Optuna: every trial is a run known by its settings, so that a repeated one costs nothing.

Two objectives, both to be small: validation loss in nats after an equal number of tokens, and predicted bytes of a private token at GPT-2
small's scale. The study is a journal file in the folder of runs; an interrupted search goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushlm.config import RunConfig
from hushlm.frontier.presets import Scale, equivalent
from hushlm.frontier.space import start, starts, suggest
from hushlm.reproduce.launch import Launcher, launch
from hushlm.reproduce.runs import Job, RunRecord, read_record

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "Trial"]

STARTUP_TRIALS = 20
"""Drawn at random before the sampler believes its model."""


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: in the order they were begun.
        config: of its run.
        loss_nats: on the validation split; the logarithm of the vocabulary, a uniform guess, where training was stopped.
        bytes: predicted at GPT-2 small's scale.
        parameters: chosen, by name.
    """

    number: int
    config: RunConfig
    loss_nats: float
    bytes: int
    parameters: dict[str, Any]


class Search:
    """The search at a scale.

    Args:
        scale: of the runs.
        folder: of the runs and of the journal.

    Raises:
        ModuleNotFoundError: without Optuna.
    """

    def __init__(self, scale: Scale, folder: Path) -> None:
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
            directions=["minimize", "minimize"],
            # A liar: several trials are under way at once.
            sampler=optuna.samplers.TPESampler(seed=scale.base.training.seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True),
            load_if_exists=True,
        )

    def trials(self) -> list[Trial]:
        """Finished ones, in the order they were begun."""
        found = []
        for trial in self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,)):
            loss, amount = trial.values
            found.append(Trial(trial.number, self._replayed(trial), loss, int(amount), dict(trial.params)))
        return found

    def run(self, trials: int, launcher: Launcher, parallel: int, address: str | None = None) -> Iterator[tuple[int, Trial]]:
        """Go on until `trials` are finished. Yields: how many are, and the last one."""
        under_way: dict[Path, tuple[int, Job]] = {}

        def jobs() -> Iterator[Job]:
            interrupted = self._interrupted()
            while self._finished() + len(under_way) < trials:
                number, job = next(interrupted, None) or self._next()
                if (record := read_record(job)) is not None:  # asked before
                    self._tell(number, job, record)
                elif job.record in under_way:  # of two alike the later is given up
                    self._study.tell(number, state=self._states.FAIL)
                else:
                    under_way[job.record] = number, job
                    yield job

        for values in starts(self.scale):
            self._study.enqueue_trial(start(values, self.scale), skip_if_exists=True)
        for job, record in launch(jobs(), launcher, parallel, address):
            trial = self._tell(*under_way.pop(job.record), record)
            yield self._finished(), trial

    def _finished(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,)))

    def _next(self) -> tuple[int, Job]:
        trial = self._study.ask()
        return trial.number, self._job(suggest(trial, self.scale))

    def _interrupted(self) -> Iterator[tuple[int, Job]]:
        """Trials that were under way when an earlier call ended."""
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
        amount = equivalent(job.config, self.scale).bytes
        told = self._study.tell(number, [loss, float(amount)])
        return Trial(number, job.config, loss, amount, dict(told.params))

    def _replayed(self, trial: optuna.trial.FrozenTrial) -> RunConfig:
        import optuna

        return self._job(suggest(optuna.trial.FixedTrial(trial.params), self.scale)).config  # type: ignore[arg-type]
