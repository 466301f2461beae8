"""What tells the runs of a page apart, and what of them cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

from hushlm.report.page.look import MOST_POINTS
from hushlm.report.page.run_record import RunRecord

__all__ = ["different_settings", "notices"]


def different_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Every setting in which the runs differ: its dotted name, and its value in each run ("-" where a run has none)."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [(key, ["-" if key not in run.settings else _text(run.settings[key]) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def notices(runs: Sequence[RunRecord]) -> list[str]:
    """Sentences on what a reader might otherwise take for comparable, or complete."""
    found = []
    trained = [run for run in runs if run.shape is not None]
    shapes = {(run.shape.layers, run.shape.heads, run.shape.width, run.shape.context, run.shape.vocabulary) for run in trained if run.shape}
    if len(shapes) > 1:
        found.append("These runs have models of different shapes: their losses, entropies and prices differ for that reason alone, too.")
    texts = {run.corpus or run.settings.get("data.corpus") for run in trained}
    tokenizers = {run.settings.get("data.tokenizer") for run in trained}
    known = {run.corpus for run in trained if run.corpus}
    if len(tokenizers) > 1 or len(known) > 1 or (not known and len(texts) > 1):
        found.append("These runs read different texts or tokens: their losses and perplexities cannot be compared.")
    for run in runs:
        if len(run.rows) > MOST_POINTS:
            found.append(
                f"{run.name} recorded {len(run.rows):,} rows: charts show {MOST_POINTS} of them, evenly spaced; metrics.jsonl has them all."
            )
        if run.end == "diverged":
            found.append(f"{run.name} was stopped by the entropy watch after step {run.rows[-1]['step']:,}: its training diverged.")
        if run.end == "not at its end":
            found.append(
                f"{run.name} is at step {run.rows[-1]['step']:,} of {run.settings['training.steps']:,}: it goes on, or was stopped there."
            )
    return found


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
