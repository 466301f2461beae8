"""`hushlm reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["reproduce"]


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
    finished: bool = False,
    from_results: bool = False,
    commands: bool = False,
    json: bool = False,
) -> int:
    """Run a table or a figure of the paper again, and say claim by claim what came out.

    Every row is tuned alike, by choosing among the preset's learning rates on the validation split, and measured over several seeds on a
    test split. Finished runs are never made again, so an interrupted command goes on where it was.

    Args:
        what: table2 to table8, fig2, fig3, fig5 to fig8, aero4, pythia, several of them joined by commas, or all.
        preset: micro (minutes a row on a core), small (a night on 16 cores) or paper (GPT-2 small, for GPUs).
        seeds: how many seeds each reported figure is the mean of; by default the preset's number.
        steps: how many updates each run has, for a first look; by default the preset's number. Such runs are kept apart.
        launcher: processes of this machine, or Ray.
        ray_address: where a Ray cluster is; by default Ray is started on this machine.
        parallel: how many runs are made at once; by default as many as the cores allow.
        device: cpu, or cuda, where all runs share one GPU. Finished runs count whichever made them.
        runs: the folder of runs; the preset has a folder of its own in it.
        results: the folder for NAME-PRESET.json; by default it is beside the runs.
        pages: the folder for the Markdown, CSV and pictures; by default it is beside the runs.
        finished: make no run, and write the results and the pages of the rows that are finished.
        from_results: draw the pages again from the JSON in --results, without any run.
        commands: only print a torchrun command for each run that can be made now; afterwards the same command without this option goes on
            from their checkpoints.
        json: print the results as one JSON document.
    """
    from hushlm.cli.reading import open_and_tell
    from hushlm.experiments.documents import write_document
    from hushlm.experiments.launch import Workers
    from hushlm.experiments.launch import commands as command_lines
    from hushlm.experiments.paper.paper_page import outcome_table, write_index, write_paper_page
    from hushlm.experiments.paper.reproduction import document_of, documents_with_pages, experiments_named, outcome_of, read_reproduction
    from hushlm.experiments.scales import PAPER_SCALES
    from hushlm.experiments.study import Study, conduct
    from hushlm.report.table import print_json, print_table

    experiments = experiments_named(what)
    if seeds is not None and seeds < 1:
        raise ValueError("--seeds must be at least 1.")
    # A shortened study is nobody's result: it never lands beside full ones.
    beside = runs / preset / ("pages" if steps is None else f"pages-{steps}")
    results, pages = results or beside, pages or beside
    if from_results:
        outcomes = [outcome_of(read_reproduction(results / f"{experiment.name}-{preset}.json")) for experiment in experiments]
    else:
        changes = (("training.device", device), *((("training.steps", steps),) if steps is not None else ()))
        study = Study(experiments, PAPER_SCALES[preset], runs / preset, seeds, changes)
        if commands:
            print(*command_lines(study.pending()), sep="\n")
            return 0
        if launcher == "local" and study.pending() and not finished:
            open_and_tell(study.scale.base.data, quiet=json)
        workers = Workers.of(launcher, parallel, ray_address, study.scale.base.training.threads)
        if not finished:
            conduct(study, lambda jobs: workers.make(study, jobs))
        outcomes = [outcome.finished() if finished else outcome for outcome in study.outcomes()]
    documents = [document_of(outcome) for outcome in outcomes]
    for outcome, document in zip(outcomes, documents, strict=True):
        if not from_results:
            write_document(document, results)
        page = write_paper_page(outcome, document, pages)
        if not json:
            print_table(outcome_table(document))
            for claim in document["claims"]:
                print(f"{claim['verdict']}: {claim['text']}. {claim['evidence']}")
            print(f"{page}\n")
    write_index(documents_with_pages(results, pages), pages)
    if json:
        print_json(documents)
    return 0
