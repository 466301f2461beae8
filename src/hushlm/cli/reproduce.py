"""`hushlm reproduce`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hushlm.reproduce.launch import Launcher
    from hushlm.reproduce.runs import Job
    from hushlm.reproduce.study import Study

__all__ = ["make_pending", "reproduce"]


def reproduce(
    what: str,
    *,
    preset: Literal["micro", "small", "paper"] = "micro",
    seeds: int | None = None,
    steps: int | None = None,
    launcher: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    parallel: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    runs: Path = Path("runs/reproduce"),
    results: Path | None = None,
    pages: Path | None = None,
    from_results: bool = False,
    commands: bool = False,
    json: bool = False,
) -> int:
    """Run a table or a figure of the paper again, and say claim by claim what came out.

    Every row is tuned alike (the preset's learning rates, chosen on the validation split) and measured over the seeds on a test split.
    Finished runs are never made again, so an interrupted command goes on where it was.

    Args:
        what: table2 to table8, fig2, fig3, fig5 to fig8, aero4, pythia, several of them joined by commas, or all.
        preset: micro (minutes a row on a core), small (a night on 16 cores) or paper (GPT-2 small, for GPUs).
        seeds: instead of the preset's.
        steps: instead of the preset's, for a first look; such runs are kept apart.
        launcher: processes of this machine, or Ray.
        ray_address: of a Ray cluster; by default Ray is started on this machine.
        parallel: runs at once; by default as many as the cores allow.
        device: cpu, or cuda: all runs share one GPU. Finished runs count whichever made them.
        runs: folder of the runs; the preset has a folder of its own in it.
        results: folder for NAME-PRESET.json; by default beside the runs.
        pages: folder for the Markdown, CSV and pictures; by default beside the runs.
        from_results: draw the pages again from the JSON in --results, without any run.
        commands: only print a torchrun command for each run that can be made now; afterwards the same command without this goes on from
            their checkpoints.
        json: print the results as one JSON document.
    """
    from hushlm.report.table import print_json, print_table
    from hushlm.reproduce.experiments import EXPERIMENTS
    from hushlm.reproduce.launch import commands as command_lines
    from hushlm.reproduce.launch import default_parallel
    from hushlm.reproduce.page import outcome_table, write_index, write_page
    from hushlm.reproduce.presets import PRESETS
    from hushlm.reproduce.results import document_of, outcome_of, read_results, write_results
    from hushlm.reproduce.study import Study, conduct

    names = list(EXPERIMENTS) if what == "all" else what.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(f"There is nothing to reproduce under {name!r}: choose among {', '.join(EXPERIMENTS)} and all.")
    if seeds is not None and seeds < 1:
        raise ValueError("--seeds must be at least 1.")
    # A shortened study is nobody's result: it never lands beside full ones.
    beside = runs / preset / ("pages" if steps is None else f"pages-{steps}")
    results, pages = results or beside, pages or beside
    if from_results:
        outcomes = [outcome_of(read_results(results / f"{name}-{preset}.json")) for name in names]
    else:
        changes: list[tuple[str, Any]] = [("training.device", device)]
        if steps is not None:
            changes.append(("training.steps", steps))
        study = Study([EXPERIMENTS[name] for name in names], PRESETS[preset], runs / preset, seeds, changes)
        if commands:
            print(*command_lines(study.pending()), sep="\n")
            return 0
        many = parallel or default_parallel(PRESETS[preset].base.training.threads)
        conduct(study, lambda jobs: make_pending(study, jobs, launcher, many, ray_address))
        outcomes = study.outcomes()
    documents = [document_of(outcome) for outcome in outcomes]
    for outcome, document in zip(outcomes, documents, strict=True):
        if not from_results:
            write_results(document, results)
        page = write_page(outcome, document, pages)
        if not json:
            print_table(outcome_table(document))
            for claim in document["claims"]:
                print(f"{claim['verdict']}: {claim['text']}. {claim['evidence']}")
            print(f"{page}\n")
    write_index(documents, pages)
    if json:
        print_json(documents)
    return 0


def make_pending(study: Study, jobs: list[Job], launcher: Launcher, parallel: int, address: str | None) -> None:
    """Make a study's pending jobs, a line for each that ends."""
    from hushlm.report.run_progress import CountProgress
    from hushlm.reproduce.launch import launch

    progress = CountProgress("runs", len(jobs), study.remaining())
    for job, record in launch(jobs, launcher, parallel, address):
        ending = f"stopped before update {record.stopped_at_step}"
        if record.stopped_at_step is None:
            ending = f"validation perplexity {record.validation_perplexity or math.inf:.3f}"
        progress.advance(f"{job.config.architecture}, rate {record.learning_rate:g}, seed {record.seed}: {ending}")
