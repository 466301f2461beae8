"""The contest at one scale, from the search to the document that its page is drawn from.

    search       many short trials with two objectives
    finals       the best trial below each limit of bytes, and the baseline, tuned alike and trained at full length over seeds
    points       the recommended models (recommended.py) in place of the finalists, at another scale than the one they were found at
    why          the model that answers best with each ingredient put back, every kernel with and without the regulariser, learning rate
                 against depth, and the model distilled from the baseline

Everything is chosen on the validation split; what is reported is measured on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hushlm.config import RunConfig
from hushlm.cost.budget import pareto_front
from hushlm.experiments.contest.contest_rows import (
    ablation_rows,
    added_rows,
    baseline_rows,
    distillation_rows,
    finalist_rows,
    grown_rows,
    recommended_rows,
    regularised_too,
    regulariser_rows,
    stability_rows,
    without_twins,
)
from hushlm.experiments.contest.models import MODELS, Origin, models_from
from hushlm.experiments.contest.objective import OBJECTIVES, Cost
from hushlm.experiments.contest.roles import explained, roles, validation_perplexity
from hushlm.experiments.contest.search import Search, Trial
from hushlm.experiments.contest.seconds import in_seconds
from hushlm.experiments.documents import write_document
from hushlm.experiments.equivalent import equivalent
from hushlm.experiments.experiment import Experiment, Row
from hushlm.experiments.launch import Workers
from hushlm.experiments.result_rows import result_row
from hushlm.experiments.runs import Job
from hushlm.experiments.scales import BASELINE, ContestScale
from hushlm.experiments.study import Outcome, RowOutcome, Study, conduct
from hushlm.recommended import RECOMMENDED
from hushlm.report.run_progress import CountProgress

__all__ = ["Contest", "Stage"]

Stage = Literal["search", "finals", "why", "points"]
Make = Callable[[Study, list[Job]], None]

_OF_A_ROW = (
    *("name", "architecture", "label", "changes", "learning_rate", "learning_rate_sweep", "shape"),
    *("perplexity_by_seed", "validation_perplexity_by_seed", "perplexity_mean", "relative_to_baseline", "relative_by_seed"),
    *(
        "stopped_at_step",
        "collapsed_layers",
        "head_share_by_seed",
        "overload_by_seed",
        "collapse_by_seed",
        "thresholds",
        "head_entropy_nats",
    ),
    *("gpt2_small", "bytes_gpt2_small", "rounds_gpt2_small", "parameters_gpt2_small", "flops_gpt2_small"),
)
"""What a result file holds of a row; see `result_row`."""


class Contest:
    """Everything that is run at one scale.

    Args:
        scale: which one.
        folder: where the runs are kept; finished ones in it are used.
        seeds: how many seeds each row has, in place of the scale's number.
        make: makes a study's pending jobs. None makes none, and then rows whose runs are not all there are left out.

    Raises:
        ValueError: from whatever needs them, if without `make` the baseline or all other rows are not there.
    """

    def __init__(self, scale: ContestScale, folder: Path, seeds: int | None, make: Make | None) -> None:
        self.scale, self.folder, self.seeds, self.make = scale, folder, seeds or scale.seeds, make

    def run(self, stage: Stage, trials: int, workers: Workers, results: Path) -> dict[str, Any] | None:
        """Hold the contest up to a stage, and write its result file; before every table of the last stage, what there is so far.

        Args:
            stage: how far to go.
            trials: how many trials the search has in all.
            workers: who makes the search's runs.
            results: the folder of the result file.

        Returns: the document as written; None after a search alone, which has no results yet.
        """
        if stage == "points":
            document = self.document(stage, self.points(), {}, {}, [])
        else:
            if self.make is not None:
                self._go_on_searching(trials, workers)
            if stage == "search":
                return None
            finals = self.finals()
            found = roles(finals, self.scale)
            why: dict[str, Outcome] = {}
            document = self.document(stage, finals, found, why, self.search.trials())
            for name, outcome in self.why(finals, found) if stage == "why" else ():
                write_document(document, results)
                why[name] = outcome
                document = self.document(stage, finals, found, why, self.search.trials())
        write_document(document, results)
        return document

    @cached_property
    def search(self) -> Search:
        """The search. Raises: ModuleNotFoundError: without Optuna."""
        return Search(self.scale, self.folder)

    def _go_on_searching(self, trials: int, workers: Workers) -> None:
        left = trials - len(self.search.trials())
        progress = CountProgress("trials", left, left)
        for _, trial in self.search.run(trials, workers):
            costs = zip(OBJECTIVES[self.scale.objective].costs, trial.costs, strict=True)
            shown = ", ".join(f"{cost.shown(value)} {cost.heading}" for cost, value in costs)
            progress.advance(f"trial {trial.number}, {trial.config.architecture}: {trial.loss_nats:.3f} nats, {shown}")

    def finals(self) -> list[RowOutcome]:
        """The baselines and the finalists, tuned and measured; the best baseline first."""
        trials = self.search.trials()
        if not trials:
            raise ValueError("The search has not a single trial: run it first, with --trials of at least 1.")
        finalists = finalist_rows(trials, self.scale)
        rows = [*baseline_rows(finalists, trials), *finalists, *added_rows(self.scale)]
        return self._best_baseline_first(without_twins(rows))

    def points(self) -> list[RowOutcome]:
        """The baseline and the recommended models at this scale, tuned and measured; the best baseline first."""
        return self._best_baseline_first(self._point_rows())

    def pending_points(self) -> list[Job]:
        """The runs of `points` that can be made now and were not."""
        return self._study("points", self._point_rows()).pending()

    def _point_rows(self) -> list[Row]:
        """The baseline with Muon, its better optimiser, then the recommended models and others beside them."""
        others = models_from(Origin.SMALL_SCALE if self.scale.objective == "bytes" else Origin.WITHOUT_COMPARISON)
        return [
            Row(BASELINE, (("training.optimiser", "muon"),), "with Muon", retuned=True),
            *without_twins(recommended_rows(self.scale, (*RECOMMENDED.values(), *others))),
        ]

    def _best_baseline_first(self, rows: Sequence[Row]) -> list[RowOutcome]:
        outcome = self._conduct("finals", rows)
        baselines = [row for row in outcome.rows if row.row.architecture == BASELINE]
        others = [row for row in outcome.rows if row.row.architecture != BASELINE]
        if not baselines or not others:
            raise ValueError("Not enough runs of the contest are finished: run it without --finished first.")
        return [*sorted(baselines, key=validation_perplexity), *others]

    def why(self, finals: Sequence[RowOutcome], found: Mapping[str, RowOutcome]) -> Iterator[tuple[str, Outcome]]:
        """The runs that take one model apart (`explained`), and others that say why.

        Args:
            finals: the tuned and measured rows, the baseline first.
            found: some of them by the question that they answer (`ROLES`).

        Yields: the name and the outcome of each table as it is done.
        """
        point = explained(finals, self.scale)
        rate = point.learning_rate
        assert rate is not None
        teacher = Job.of(RunConfig.from_dict(finals[0].runs[0].settings), self.folder, 1, None).config.output
        teaches = teacher.exists()  # a record that was made elsewhere may have come without its checkpoint
        whole = Row(point.row.architecture, point.row.changes, "whole", rate=rate)
        ablation = [whole, *ablation_rows(point.row, rate, self.scale)]
        rows = {
            "regulariser": regulariser_rows(self.scale) if self.scale.objective == "bytes" else regularised_too(point.row, rate),
            "ablation": [replace(row, seeds=self.scale.ablation_seeds) for row in ablation],
            "grown": grown_rows(self.scale),
            "stability": stability_rows(point.row, self.scale),
            "distillation": distillation_rows(_taught(finals, found), str(teacher)) if teaches else [],
        }
        for name, some in rows.items():
            yield name, self._conduct(name, some)

    def document(
        self,
        stage: Stage,
        finals: Sequence[RowOutcome],
        found: Mapping[str, RowOutcome],
        why: Mapping[str, Outcome],
        trials: Sequence[Trial],
    ) -> dict[str, Any]:
        """What results/frontier-PRESET.json holds: `points`, cheapest first, the search's front, and every table behind the page.

        Args:
            stage: how far the contest went.
            finals: the tuned and measured rows, the baseline first.
            found: some of them by the question that they answer (`ROLES`); none where nothing was searched.
            why: the tables that say why, by name.
            trials: those of the search that the finals came out of; none for the recommended models.
        """
        baseline = finals[0]
        points = [
            {"role": " and ".join(role for role, chosen in found.items() if chosen is row), **self._values(row, baseline)} for row in finals
        ]
        costs = OBJECTIVES[self.scale.objective].costs
        records = [run for row in finals for run in row.runs]
        length = f" --trials {len(trials)}" if trials else ""
        devices = sorted({run.settings["training"]["device"] for run in records})
        where = "" if devices == ["cpu"] else f" --device {devices[-1]}"
        document: dict[str, Any] = {
            "preset": self.scale.name,
            "command": f"hushlm frontier run --preset {self.scale.name} --stage {stage} --seeds {self.seeds}{length}{where}",
            "seeds": self.seeds,
            "corpus": records[0].corpus,
            "versions": records[0].versions,
            "devices": devices,
            "base": self.scale.base.to_dict(),
            "search": {
                "trials": len(trials),
                "steps": self.scale.search_steps,
                "front": [{**_trial(trial, costs), "parameters": trial.parameters} for trial in _front(trials, len(costs))],
                "all": [_trial(trial, costs) for trial in trials],
            },
            "points": points,
            **{name: [self._values(row, baseline) for row in outcome.rows] for name, outcome in why.items()},
        }
        document = in_seconds(document)
        return {**document, "points": sorted(document["points"], key=lambda point: point[costs[0].key])}

    def _values(self, outcome: RowOutcome, baseline: RowOutcome) -> dict[str, Any]:
        base = self.scale.base
        there = equivalent(RunConfig.from_dict(outcome.runs[0].settings), self.scale).shape
        return result_row(_OF_A_ROW, outcome, baseline, base, there)

    def _study(self, name: str, rows: Sequence[Row]) -> Study:
        return Study([Experiment(name, name, tuple(dict.fromkeys(rows)))], self.scale, self.folder, self.seeds)

    def _conduct(self, name: str, rows: Sequence[Row]) -> Outcome:
        study, make = self._study(name, rows), self.make
        if make is None:
            outcome = study.outcomes()[0]
            return replace(outcome, rows=tuple(row for row in outcome.rows if row.complete))
        conduct(study, lambda jobs: make(study, jobs))
        return study.outcomes()[0]


def _taught(finals: Sequence[RowOutcome], found: Mapping[str, RowOutcome]) -> dict[str, RowOutcome]:
    """The rows that learn from the baseline as well: S and M (or what there is of roles), and models marked so in models.yaml."""
    marked = {model.name for model in MODELS if model.distilled}
    taught = {role: row for role, row in found.items() if role in ("S", "M")} or found
    return {**taught, **{row.row.label: row for row in finals if row.row.label in marked}}


def _front(trials: Sequence[Trial], costs: int) -> list[Trial]:
    """The candidates to which no other is preferable by loss and one of the costs."""
    candidates = [trial for trial in trials if all(map(math.isfinite, trial.costs))]
    found: dict[int, Trial] = {}
    for at in range(costs):

        def cost(trial: Trial, at: int = at) -> float:
            return trial.costs[at]

        found |= {trial.number: trial for trial in pareto_front(candidates, cost, lambda trial: -trial.loss_nats)}
    return list(found.values())


def _trial(trial: Trial, costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "architecture": trial.config.architecture,
        "loss_nats": trial.loss_nats,
        **{cost.key: value if math.isfinite(value) else None for cost, value in zip(costs, trial.costs, strict=True)},
    }
