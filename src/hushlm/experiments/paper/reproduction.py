"""An experiment of the paper from its name to its result file, which is enough to draw everything again without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hushlm.config import RunConfig
from hushlm.experiments.documents import read_document
from hushlm.experiments.experiment import Experiment
from hushlm.experiments.paper.claims import judge
from hushlm.experiments.paper.tables import EXPERIMENTS
from hushlm.experiments.published_figures import published_figures
from hushlm.experiments.result_rows import result_row
from hushlm.experiments.runs import RunRecord
from hushlm.experiments.scales import PAPER_SCALES
from hushlm.experiments.study import Outcome, RowOutcome
from hushlm.shapes import GPT2_SMALL

__all__ = ["document_of", "documents_with_pages", "experiments_named", "outcome_of", "read_reproduction"]

_OF_A_ROW = (
    *("architecture", "label", "stress", "changes", "learning_rate", "learning_rate_sweep", "wanted_seeds"),
    *("perplexity_by_seed", "perplexity_mean", "perplexity_spread", "head_share_by_seed", "overload_by_seed", "collapse_by_seed"),
    *("nonlinear_operations", "ffn_gflops", "attention_gflops", "bytes", "gpt2_small_bytes", "runs"),
    *("published_perplexity", "published_shares", "delta_percent"),
)
"""What a result file holds of a row; see `result_row`."""


def experiments_named(what: str) -> list[Experiment]:
    """The experiments that a command line asks for: names separated by commas, or "all".

    Raises:
        ValueError: for a name that no experiment has.
    """
    names = list(EXPERIMENTS) if what == "all" else what.split(",")
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(f"There is nothing to reproduce under {name!r}: choose among {', '.join(EXPERIMENTS)} and all.")
    return [EXPERIMENTS[name] for name in names]


def document_of(outcome: Outcome) -> dict[str, Any]:
    """What results/NAME-PRESET.json holds.

    Its keys are name, title, preset, command, seeds, corpus, versions, base (settings), complete, claims (text, verdict, evidence, ours)
    and rows (see `result_row`; deltas are to the first row, and every row stands for a model of GPT-2 small's sizes there).
    """
    published = published_figures(outcome.experiment.published, outcome.config.shape.layers)
    rows = []
    for row in outcome.rows:
        figures = published.get(row.row.architecture) if not row.row.stress else None
        rows.append(result_row(_OF_A_ROW, row, outcome.rows[0], outcome.config, GPT2_SMALL, published=figures))
    runs = [run for row in outcome.rows for run in row.runs]
    name, preset, seeds = outcome.experiment.name, outcome.scale.name, max(row.wanted_seeds for row in outcome.rows)
    return {
        "name": name,
        "title": outcome.experiment.title,
        "preset": preset,
        "command": f"hushlm reproduce {name} --preset {preset} --seeds {seeds}",
        "seeds": seeds,
        "corpus": runs[0].corpus if runs else None,
        "versions": runs[0].versions if runs else None,
        "base": outcome.config.to_dict(),
        "complete": outcome.complete,
        "claims": [asdict(claim) for claim in judge(outcome)],
        "rows": rows,
    }


def documents_with_pages(results: Path, pages: Path) -> list[Mapping[str, Any]]:
    """Every document of a folder of results that has a page in a folder of pages, experiment by experiment."""
    stems = [f"{name}-{preset}" for name in EXPERIMENTS for preset in PAPER_SCALES]
    return [
        read_reproduction(results / f"{stem}.json")
        for stem in stems
        if (results / f"{stem}.json").is_file() and (pages / f"{stem}.md").is_file()
    ]


def read_reproduction(path: Path) -> Mapping[str, Any]:
    """The document of a result file.

    Raises:
        ValueError: in one sentence, if it is not such a file.
    """
    return read_document(path, outcome_of, "does not hold the results of a reproduction: give a file that `hushlm reproduce` wrote.")


def outcome_of(document: Mapping[str, Any]) -> Outcome:
    """The outcome that a document tells of. Claims and pictures are made again from its runs; none is taken over."""
    scale = PAPER_SCALES[document["preset"]]
    experiment = EXPERIMENTS[document["name"]].with_one_rate() if scale.one_rate_too else EXPERIMENTS[document["name"]]
    by_name = {(row.name(document["base"]["shape"]["layers"]), row.label): row for row in experiment.rows}
    rows = []
    for values in document["rows"]:
        row = by_name[values["architecture"], values["label"]]
        rows.append(
            RowOutcome(
                replace(row, architecture=values["architecture"]),
                values["learning_rate"],
                {float(rate): perplexity for rate, perplexity in values["learning_rate_sweep"].items()},
                tuple(RunRecord(**run) for run in values["runs"]),
                values["wanted_seeds"],
            )
        )
    return Outcome(experiment, scale, RunConfig.from_dict(document["base"]), tuple(rows))
