"""`hushlm frontier run`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["contest"]


def contest(
    *,
    preset: Literal["micro", "small"] = "micro",
    stage: Literal["search", "finals", "why", "all"] = "all",
    trials: int | None = None,
    seeds: int | None = None,
    launcher: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    parallel: int | None = None,
    runs: Path = Path("runs/reproduce"),
    results: Path | None = None,
    pages: Path | None = None,
    from_results: bool = False,
    json: bool = False,
) -> None:
    """Search architectures, shapes and trainings for the best perplexity at the fewest private bytes.

    A search with Optuna over short runs (validation loss against predicted bytes at GPT-2 small's scale), finals at full length over seeds
    against SM+LN+G, and runs that say why. Finished runs are never made again, so an interrupted command goes on where it was.

    Args:
        preset: micro (a minute a run on a core) or small (three million parameters, half an hour a run on two cores).
        stage: stop after the search or the finals, or go on to the runs that say why; all is the same as why.
        trials: of the search in all, instead of the preset's.
        seeds: of the figures, instead of the preset's.
        launcher: processes of this machine, or Ray.
        ray_address: of a Ray cluster; by default Ray is started on this machine.
        parallel: runs at once; by default as many as the cores allow.
        runs: folder of the runs, shared with `hushlm reproduce`; the preset has a folder of its own in it.
        results: folder for frontier-PRESET.json; by default beside the runs.
        pages: folder for the Markdown and the pictures; by default beside the runs.
        from_results: draw the page again from the JSON in --results, without any run.
        json: print the results as one JSON document.
    """
    from hushlm.cli.reproduce import make_pending
    from hushlm.frontier.page import points_table, read_document, write_document, write_page
    from hushlm.frontier.presets import SCALES
    from hushlm.report.progress import CountProgress
    from hushlm.report.table import print_json, print_table
    from hushlm.reproduce.launch import default_parallel

    results, pages = results or runs / preset, pages or runs / preset / "pages"
    if from_results:
        document = read_document(results / f"frontier-{preset}.json")
    else:
        from hushlm.frontier.contest import Contest
        from hushlm.frontier.points import name_points

        scale = SCALES[preset]
        many = parallel or default_parallel(scale.base.training.threads)
        contest = Contest(scale, runs / preset, seeds, lambda study, jobs: make_pending(study, jobs, launcher, many, ray_address))
        wanted = scale.trials if trials is None else trials
        progress = CountProgress("trials", wanted, wanted)
        for _, trial in contest.search.run(wanted, launcher, many, ray_address):
            progress.advance(f"trial {trial.number}, {trial.config.architecture}: {trial.loss_nats:.3f} nats, {trial.bytes / 1e9:.2f} GB")
        if stage == "search":
            return
        finals = contest.finals()
        why = contest.why(finals, name_points(finals, scale)) if stage != "finals" else {}
        document = contest.document(finals, why)
        write_document(document, results)
    page = write_page(document, pages)
    if json:
        print_json(document)
    else:
        print_table(points_table(document))
        print(page)
