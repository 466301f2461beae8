"""The contest from the search to the named points, and its document.

    search       many short trials, two objectives
    finals       the best trial below each cap of bytes, and the baseline, tuned alike and at full length, over seeds
    points       the named points (recommended.py) in place of the finalists: at another scale than the one they were found at
    why          the recommended point with each ingredient put back, every kernel with and without the regulariser, learning rate against
                 depth, and the point distilled from the baseline

Everything is chosen on the validation split; what is reported is measured on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hushlm.config import RunConfig
from hushlm.cost.budget import pareto_front
from hushlm.entropy.diagnostics import summarise
from hushlm.frontier.points import explained, validation_perplexity
from hushlm.frontier.presets import BASELINE, Scale, equivalent
from hushlm.frontier.rows import (
    GROWN,
    TAUGHT_AS_WELL,
    ablation_rows,
    added_rows,
    baseline_rows,
    distillation_rows,
    experiment,
    finalist_rows,
    grown_rows,
    model_of,
    preset_of,
    recommended_rows,
    regulariser_rows,
    stability_rows,
    without_twins,
)
from hushlm.frontier.search import Search, Trial
from hushlm.recommended import RECOMMENDED
from hushlm.reproduce.experiments import Row
from hushlm.reproduce.runs import Job
from hushlm.reproduce.study import Outcome, RowOutcome, Study, conduct

__all__ = ["Contest"]

Make = Callable[[Study, list[Job]], None]


class Contest:
    """Everything that is run at one scale.

    Args:
        scale: which one.
        folder: of the runs; finished ones in it are used.
        seeds: instead of the scale's.
        make: makes a study's pending jobs; None makes none, and rows whose runs are not all there are left out.

    Raises:
        ValueError: without `make`, if the baseline or all others are not there.
    """

    def __init__(self, scale: Scale, folder: Path, seeds: int | None, make: Make | None) -> None:
        self.scale, self.folder, self.seeds, self.make = scale, folder, seeds or scale.seeds, make

    @cached_property
    def search(self) -> Search:
        """Raises: ModuleNotFoundError: without Optuna."""
        return Search(self.scale, self.folder)

    def finals(self) -> list[RowOutcome]:
        """The baselines and the finalists, tuned and measured: the best baseline first."""
        trials = self.search.trials()
        if not trials:
            raise ValueError("The search has not a single trial: run it first, with --trials of at least 1.")
        finalists = finalist_rows(trials, self.scale)
        rows = [*baseline_rows(finalists, trials), *finalists, *added_rows(self.scale)]
        return self._best_baseline_first(without_twins(rows))

    def points(self) -> list[RowOutcome]:
        """The baseline and the named points at this scale, tuned and measured: the best baseline first."""
        return self._best_baseline_first(self.point_rows())

    def point_rows(self) -> list[Row]:
        """The baseline with Muon, the better one (`hushlm reproduce` has the paper's), the points, and what the small scale brought up."""
        return [
            Row(BASELINE, (("training.optimiser", "muon"),), "with Muon", retuned=True),
            *without_twins(recommended_rows(self.scale, (*RECOMMENDED.values(), *GROWN))),
        ]

    def study(self, name: str, rows: Sequence[Row]) -> Study:
        """Rows at this scale."""
        return Study([experiment(name, name, rows)], preset_of(self.scale), self.folder, self.seeds)

    def _best_baseline_first(self, rows: Sequence[Row]) -> list[RowOutcome]:
        outcome = self._conduct("finals", rows)
        baselines = [row for row in outcome.rows if row.row.architecture == BASELINE]
        others = [row for row in outcome.rows if row.row.architecture != BASELINE]
        if not baselines or not others:
            raise ValueError("Not enough runs of the contest are finished: run it without --finished first.")
        return [*sorted(baselines, key=validation_perplexity), *others]

    def why(self, finals: Sequence[RowOutcome], found: dict[str, RowOutcome]) -> Iterator[tuple[str, Outcome]]:
        """The runs that explain a point (`explained`), and others that say why.

        Yields: a table's name and outcome, as it is done.
        """
        point = explained(finals, self.scale)
        rate = point.learning_rate
        assert rate is not None
        teacher = Job.of(RunConfig.from_dict(finals[0].runs[0].settings), self.folder, 1, None).config.output
        teaches = teacher.exists()  # a record that was made elsewhere may have come without its checkpoint
        whole = Row(point.row.architecture, point.row.changes, "whole", rate=rate)
        ablation = [whole, *ablation_rows(point.row, rate, self.scale)]
        rows = {
            "ablation": [replace(row, seeds=self.scale.ablation_seeds) for row in ablation],
            "grown": grown_rows(self.scale),
            "stability": stability_rows(point.row, self.scale),
            "regulariser": regulariser_rows(self.scale),
            "distillation": distillation_rows(self._taught(finals, found), str(teacher)) if teaches else [],
        }
        for name, some in rows.items():
            yield name, self._conduct(name, some)

    def _taught(self, finals: Sequence[RowOutcome], found: dict[str, RowOutcome]) -> dict[str, RowOutcome]:
        """Finals that learn from the baseline as well: S, M, and one between them that misses M's limit by little."""
        taught = {role: row for role, row in found.items() if role in ("S", "M")} or found
        return {**taught, **{row.row.label: row for row in finals if row.row.label == TAUGHT_AS_WELL}}

    def document(
        self, stage: str, finals: Sequence[RowOutcome], found: dict[str, RowOutcome], why: dict[str, Outcome], trials: Sequence[Trial]
    ) -> dict[str, Any]:
        """What results/frontier-SCALE.json holds: `points` by bytes, the search's front, and every table behind the page.

        Args:
            stage: as on the command line.
            finals: the baseline first.
            found: some of them by their role (`hushlm.frontier.points.ROLES`); none where nothing was searched.
            why: tables by name.
            trials: of the search the finals came out of; none for the named points.
        """
        baseline = finals[0]
        points = [
            {"role": " and ".join(role for role, chosen in found.items() if chosen is row), **self._values(row, baseline)} for row in finals
        ]
        front = pareto_front(trials, lambda trial: trial.bytes, lambda trial: -trial.loss_nats)
        records = [run for row in finals for run in row.runs]
        length = f" --trials {len(trials)}" if trials else ""
        devices = sorted({run.settings["training"]["device"] for run in records})
        where = "" if devices == ["cpu"] else f" --device {devices[-1]}"
        return {
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
                "front": [{**_trial(trial), "parameters": trial.parameters} for trial in front],
                "all": [_trial(trial) for trial in trials],
            },
            "points": sorted(points, key=lambda point: point["bytes_gpt2_small"]),
            **{name: [self._values(row, baseline) for row in outcome.rows] for name, outcome in why.items()},
        }

    def _recommended(self, outcome: RowOutcome) -> str:
        """The name of the model recommended that a row is, "" if it is none."""
        for point in RECOMMENDED.values():
            with suppress(ValueError):  # a scale of another number of layers may have no such model
                if model_of(outcome.row) in map(model_of, recommended_rows(self.scale, [point])):
                    return point.name
        return ""

    def _conduct(self, name: str, rows: Sequence[Row]) -> Outcome:
        study, make = self.study(name, rows), self.make
        if make is None:
            outcome = study.outcomes()[0]
            return replace(outcome, rows=tuple(row for row in outcome.rows if row.complete))
        conduct(study, lambda jobs: make(study, jobs))
        return study.outcomes()[0]

    def _values(self, outcome: RowOutcome, baseline: RowOutcome) -> dict[str, Any]:
        """One row as plain JSON values, held against the baseline seed by seed."""
        config = RunConfig.from_dict(outcome.runs[0].settings)
        model = equivalent(config, self.scale)
        reports = [summarise(run.head_entropy_nats, config.shape.context) if run.head_entropy_nats else None for run in outcome.runs]
        found, base = outcome.perplexity_by_seed, baseline.perplexity_by_seed
        mean, base_mean = outcome.mean_perplexity, baseline.mean_perplexity
        return {
            "name": self._recommended(outcome),
            "architecture": outcome.row.architecture,
            "label": outcome.row.label,
            "changes": {name: value for name, value in outcome.row.changes if name != "training.teacher"},
            "learning_rate": outcome.learning_rate,
            "learning_rate_sweep": {f"{rate:g}": perplexity for rate, perplexity in sorted(outcome.sweep.items())},
            "shape": asdict(config.shape),
            "perplexity_by_seed": found,
            "validation_perplexity_by_seed": [run.validation_perplexity for run in outcome.runs],
            "perplexity_mean": mean,
            "relative_to_baseline": mean / base_mean if mean and base_mean else None,
            "relative_by_seed": [a / b if a and b else None for a, b in zip(found, base, strict=False)],
            "stopped_at_step": [run.stopped_at_step for run in outcome.runs],
            "collapsed_layers": [run.collapsed_layers for run in outcome.runs],
            "head_share_by_seed": [list(report.share_per_range) if report else None for report in reports],
            "overload_by_seed": [report.overload if report else None for report in reports],
            "collapse_by_seed": [report.collapse if report else None for report in reports],
            "thresholds": [run.thresholds for run in outcome.runs],
            "head_entropy_nats": outcome.runs[0].head_entropy_nats,
            "gpt2_small": asdict(model.shape),
            "bytes_gpt2_small": model.bytes,
            "rounds_gpt2_small": model.rounds,
            "parameters_gpt2_small": model.parameters,
            "flops_gpt2_small": model.flops,
        }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "architecture": trial.config.architecture,
        "loss_nats": trial.loss_nats,
        "bytes_gpt2_small": trial.bytes,
    }
