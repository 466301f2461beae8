"""`hushlm frontier run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hushlm.frontier.contest import Contest
    from hushlm.reproduce.launch import Launcher
    from hushlm.reproduce.study import Outcome

__all__ = ["contest"]


def contest(
    *,
    preset: Literal["micro", "small", "paper"] = "micro",
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

    A search with Optuna over short runs (validation loss against predicted bytes at GPT-2 small's scale), finals at full length over seeds
    against SM+LN+G, and runs that say why. Finished runs are never made again, so an interrupted command goes on where it was.

    Args:
        preset: micro (a minute a run on a core), small (three million parameters; seconds a run on a GPU, over an hour on a core), or paper
            (GPT-2 small, for GPUs; stage points only).
        stage: how far to go: search; finals after it; then why; or only points: the named ones and the baseline, at another scale.
        trials: of the search in all, instead of the preset's.
        seeds: of the figures, instead of the preset's.
        launcher: processes of this machine, or Ray.
        ray_address: of a Ray cluster; by default Ray is started on this machine.
        parallel: runs at once; by default as many as the cores allow.
        device: cpu, or cuda: all runs share one GPU. Finished runs count whichever made them.
        runs: folder of the runs, shared with `hushlm reproduce`; the preset has a folder of its own in it.
        results: folder for frontier-PRESET.json; by default beside the runs.
        pages: folder for the Markdown and the pictures; by default beside the runs.
        finished: make no run: the results and the page with the rows that are finished.
        from_results: draw the page again from the JSON in --results, without any run.
        commands: with --stage points, only print a torchrun command for each run that can be made now; afterwards the same command without
            this goes on from their checkpoints.
        json: print the results as one JSON document.
    """
    from hushlm.frontier.page import points_table, read_results, write_page, write_results
    from hushlm.frontier.presets import SCALES
    from hushlm.report.table import print_json, print_table

    results, pages = results or runs / preset, pages or runs / preset / "pages"
    scale = SCALES[preset].on(device)
    wanted = scale.trials if trials is None else trials
    if from_results:
        document = read_results(results / f"frontier-{preset}.json")
    elif commands and stage != "points":
        raise ValueError("--commands goes with --stage points: what a search runs next depends on what came out of the runs before.")
    elif stage != "points" and wanted < 1:
        raise ValueError(f"The search at {preset} has {wanted} trials: give --trials of at least 1, or --stage points.")
    else:
        from hushlm.cli.reproduce import make_pending
        from hushlm.frontier.contest import Contest
        from hushlm.frontier.points import roles
        from hushlm.reproduce.launch import commands as command_lines
        from hushlm.reproduce.launch import default_parallel

        many = parallel or default_parallel(scale.base.training.threads)
        make = None if finished else lambda study, jobs: make_pending(study, jobs, launcher, many, ray_address)
        contest = Contest(scale, runs / preset, seeds, make)
        if commands:
            print(*command_lines(contest.study("points", contest.point_rows()).pending()), sep="\n")
            return
        if stage == "points":
            finals = contest.points()
            document = contest.document(stage, finals, {}, {}, [])
        else:
            if not finished:
                _search(contest, wanted, launcher, many, ray_address)
            if stage == "search":
                return
            finals = contest.finals()
            found = roles(finals, scale)
            why: dict[str, Outcome] = {}
            document = contest.document(stage, finals, found, why, contest.search.trials())
            for name, outcome in contest.why(finals, found) if stage == "why" else ():
                write_results(document, results)  # what there is so far
                why[name] = outcome
                document = contest.document(stage, finals, found, why, contest.search.trials())
        write_results(document, results)
    page = write_page(document, pages)
    if json:
        print_json(document)
    else:
        print_table(points_table(document))
        print(page)


def _search(contest: Contest, trials: int, launcher: Launcher, parallel: int, address: str | None) -> None:
    from hushlm.report.run_progress import CountProgress

    left = trials - len(contest.search.trials())
    progress = CountProgress("trials", left, left)
    for _, trial in contest.search.run(trials, launcher, parallel, address):
        progress.advance(f"trial {trial.number}, {trial.config.architecture}: {trial.loss_nats:.3f} nats, {trial.bytes / 1e9:.2f} GB")
