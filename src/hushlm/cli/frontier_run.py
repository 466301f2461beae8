"""`hushlm frontier run`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["contest"]


def contest(
    *,
    preset: Literal["micro", "small", "paper", "micro-online", "small-online"] = "micro",
    stage: Literal["search", "finals", "why", "points"] = "why",
    trials: int | None = None,
    seeds: int | None = None,
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
) -> None:
    """Search architectures, shapes and trainings for the best perplexity at the fewest private bytes.

    A search with Optuna makes short runs and compares validation loss with the bytes that a private token is predicted to take at GPT-2
    small's scale. The best of it are trained at full length over several seeds beside SM+LN+G, and further runs say why they are good.
    Finished runs are never made again, so an interrupted command goes on where it was.

    Args:
        preset: micro (a minute a run on a core), small (three million parameters; seconds a run on a GPU, over an hour on a core), or paper
            (GPT-2 small, for GPUs; stage points only). With -online the seconds of prepared answers, over a LAN and a WAN, are to be few
            instead of bytes.
        stage: how far to go: search, finals after it, and then why; or points, which runs only the recommended models and the baseline.
        trials: how many trials the search has in all; by default the preset's number.
        seeds: how many seeds each reported figure is the mean of; by default the preset's number.
        launcher: processes of this machine, or Ray.
        ray_address: where a Ray cluster is; by default Ray is started on this machine.
        parallel: how many runs are made at once; by default as many as the cores allow.
        device: cpu, or cuda, where all runs share one GPU. Finished runs count whichever made them.
        runs: the folder of runs, shared with `hushlm reproduce`; the preset has a folder of its own in it.
        results: the folder for frontier-PRESET.json; by default it is beside the runs.
        pages: the folder for the Markdown and the pictures; by default it is beside the runs.
        finished: make no run, and write the results and the page of the rows that are finished.
        from_results: draw the page again from the JSON in --results, without any run. Its prices in seconds are brought up to date.
        commands: with --stage points, only print a torchrun command for each run that can be made now; afterwards the same command without
            this option goes on from their checkpoints.
        json: print the results as one JSON document.
    """
    from hushlm.experiments.contest.contest_page import points_table, read_contest, write_contest_page
    from hushlm.experiments.contest.seconds import in_seconds
    from hushlm.experiments.documents import write_document
    from hushlm.experiments.scales import CONTEST_SCALES
    from hushlm.report.table import print_json, print_table

    results, pages = results or runs / preset, pages or runs / preset / "pages"
    scale = CONTEST_SCALES[preset].on(device)
    wanted = scale.trials if trials is None else trials
    if from_results:
        document = in_seconds(read_contest(results / f"frontier-{preset}.json"))
        write_document(document, results)
    elif commands and stage != "points":
        raise ValueError("--commands goes with --stage points: what a search runs next depends on what came out of the runs before.")
    elif stage != "points" and wanted < 1:
        raise ValueError(f"The search at {preset} has {wanted} trials: give --trials of at least 1, or --stage points.")
    else:
        from hushlm.experiments.contest.contest import Contest
        from hushlm.experiments.launch import Workers
        from hushlm.experiments.launch import commands as command_lines

        workers = Workers.of(launcher, parallel, ray_address, scale.base.training.threads)
        held = Contest(scale, runs / preset, seeds, None if finished else workers.make)
        if commands:
            print(*command_lines(held.pending_points()), sep="\n")
            return
        made = held.run(stage, wanted, workers, results)
        if made is None:
            return
        document = made
    page = write_contest_page(document, pages)
    if json:
        print_json(document)
    else:
        print_table(points_table(document))
        print(page)
