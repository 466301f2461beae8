"""An experiment's outcome as one JSON document: small enough for a repository, and enough to draw everything again without training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import flops, nonlinear_operations, price
from hushlm.entropy.diagnostics import summarise
from hushlm.plan import prefill_plan
from hushlm.report.document import read_document, write_document
from hushlm.reproduce.claims import judge
from hushlm.reproduce.experiments import EXPERIMENTS
from hushlm.reproduce.presets import PRESETS
from hushlm.reproduce.published import published_figures
from hushlm.reproduce.runs import RunRecord
from hushlm.reproduce.study import Outcome, RowOutcome
from hushlm.shapes import GPT2_SMALL

__all__ = ["document_of", "outcome_of", "read_results", "write_results"]


def document_of(outcome: Outcome) -> dict[str, Any]:
    """What results/NAME-PRESET.json holds.

    Its keys: name, title, preset, command, seeds, corpus, versions, base (settings), complete, claims (text, verdict, evidence, ours) and
    rows: architecture, label, stress, changes, learning_rate, learning_rate_sweep (rate: validation perplexity), perplexity_by_seed (test
    split; None where training was stopped), perplexity_mean, perplexity_spread (largest minus smallest), delta_percent (of the mean
    to the first row's), head_share_by_seed (quarters of the largest entropy), overload_by_seed, collapse_by_seed, published_perplexity,
    published_shares, nonlinear_operations, ffn_gflops, attention_gflops and bytes (a private pass over a full context that reveals a
    token, both directions) at the row's own shape, gpt2_small_bytes, and runs (the records).
    """
    published = published_figures(outcome.experiment.published, outcome.config.shape.layers)
    rows = []
    for row in outcome.rows:
        values = _row(row, outcome.config)
        figures = published.get(row.row.architecture) if not row.row.stress else None
        perplexity = figures.perplexity if figures else None
        values["published_perplexity"] = None if perplexity is None else "diverged" if math.isnan(perplexity) else perplexity
        values["published_shares"] = list(figures.shares) if figures else None
        rows.append(values)
    baseline = rows[0]["perplexity_mean"]
    for values in rows:
        mean = values["perplexity_mean"]
        values["delta_percent"] = 100 * (mean / baseline - 1) if mean and baseline else None
    runs = [run for row in outcome.rows for run in row.runs]
    name, preset = outcome.experiment.name, outcome.preset.name
    return {
        "name": name,
        "title": outcome.experiment.title,
        "preset": preset,
        "command": f"hushlm reproduce {name} --preset {preset} --seeds {max(row.wanted_seeds for row in outcome.rows)}",
        "seeds": max(row.wanted_seeds for row in outcome.rows),
        "corpus": runs[0].corpus if runs else None,
        "versions": runs[0].versions if runs else None,
        "base": outcome.config.to_dict(),
        "complete": outcome.complete,
        "claims": [asdict(claim) for claim in judge(outcome)],
        "rows": rows,
    }


def _row(row: RowOutcome, base: RunConfig) -> dict[str, Any]:
    architecture = parse(row.row.architecture)
    settings = row.runs[0].settings if row.runs else base.to_dict()
    shape = ModelShape(**settings["shape"])
    counted = flops(architecture, shape)
    reports = [summarise(run.head_entropy_nats, shape.context) if run.head_entropy_nats else None for run in row.runs]
    found = [perplexity for perplexity in row.perplexity_by_seed if perplexity is not None]
    return {
        "architecture": row.row.architecture,
        "label": row.row.label,
        "stress": row.row.stress,
        "changes": dict(row.row.changes),
        "learning_rate": row.learning_rate,
        "learning_rate_sweep": {f"{rate:g}": perplexity for rate, perplexity in sorted(row.sweep.items())},
        "wanted_seeds": row.wanted_seeds,
        "perplexity_by_seed": row.perplexity_by_seed,
        "perplexity_mean": row.mean_perplexity,
        "perplexity_spread": max(found) - min(found) if found else None,
        "head_share_by_seed": [list(report.share_per_range) if report else None for report in reports],
        "overload_by_seed": [report.overload if report else None for report in reports],
        "collapse_by_seed": [report.collapse if report else None for report in reports],
        "nonlinear_operations": [str(operation) for operation in nonlinear_operations(architecture, shape)],
        "ffn_gflops": counted.ffn / 1e9,
        "attention_gflops": counted.attention / 1e9,
        "bytes": int(price(prefill_plan(architecture, shape, shape.context)).total.bytes),
        "gpt2_small_bytes": int(price(prefill_plan(architecture, GPT2_SMALL, GPT2_SMALL.context)).total.bytes),
        "runs": [asdict(run) for run in row.runs],
    }


def write_results(document: Mapping[str, Any], folder: Path) -> Path:
    """Write a `document_of` an outcome as NAME-PRESET.json into a folder. Returns: its path."""
    return write_document(document, folder / f"{document['name']}-{document['preset']}.json")


def read_results(path: Path) -> Mapping[str, Any]:
    """Raises: ValueError: one sentence, if it is not such a document."""
    return read_document(path, outcome_of, "does not hold the results of a reproduction: give a file that `hushlm reproduce` wrote.")


def outcome_of(document: Mapping[str, Any]) -> Outcome:
    """The outcome that a document tells of: claims and pictures are made again from its runs, none is taken over."""
    experiment = EXPERIMENTS[document["name"]]
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
    return Outcome(experiment, PRESETS[document["preset"]], RunConfig.from_dict(document["base"]), tuple(rows))
