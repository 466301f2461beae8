"""One row of a result file: everything that its runs gave, as plain JSON values by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape, RunConfig
from hushlm.cost import flops, nonlinear_operations, price
from hushlm.entropy.diagnostics import summarise
from hushlm.experiments.equivalent import priced_at
from hushlm.experiments.published_figures import PublishedFigures
from hushlm.experiments.study import RowOutcome
from hushlm.plan import prefill_plan

__all__ = ["result_row"]


def result_row(
    names: Iterable[str],
    outcome: RowOutcome,
    baseline: RowOutcome,
    base: RunConfig,
    gpt2_small: ModelShape,
    *,
    published: PublishedFigures | None = None,
) -> dict[str, Any]:
    """Describe a row by the values that a result file holds of it, in the file's order.

    Lists "by seed" and those named after an outcome of a run have an entry for each run; what a stopped run does not have is None there.
    A private pass reads the whole context and reveals one token; its bytes are those of both directions.

    Args:
        names: which of the values to give; some stand under two names, because the files of both kinds of experiments are kept as they are.
        outcome: what the row's runs gave.
        baseline: what the runs of the row that it is compared with gave.
        base: the run whose settings stand for the row's where it has no run yet.
        gpt2_small: the sizes that stand for the row's model at GPT-2 small's scale.
        published: what is published of the row; None for nothing.
    """
    row, runs = outcome.row, outcome.runs
    architecture = parse(row.architecture)
    shape = ModelShape(**(runs[0].settings if runs else base.to_dict())["shape"])
    operations, there = flops(architecture, shape), priced_at(architecture, gpt2_small)
    reports = [summarise(run.head_entropy_nats, shape.context) if run.head_entropy_nats else None for run in runs]
    by_seed, baseline_by_seed = outcome.perplexity_by_seed, baseline.perplexity_by_seed
    finite = [perplexity for perplexity in by_seed if perplexity is not None]
    mean, baseline_mean = outcome.mean_perplexity, baseline.mean_perplexity
    printed = published.perplexity if published else None
    values = {
        # What was run.
        "name": "",  # the contest fills it in
        "architecture": row.architecture,
        "label": row.label,
        "stress": row.stress,
        "changes": {name: value for name, value in row.changes if name != "training.teacher"},  # a folder of the machine it ran on
        "learning_rate": outcome.learning_rate,
        "learning_rate_sweep": {f"{rate:g}": perplexity for rate, perplexity in sorted(outcome.sweep.items())},  # on the validation split
        "wanted_seeds": outcome.wanted_seeds,
        "shape": shape.to_dict(),
        # How good it is, on the test split unless named otherwise.
        "perplexity_by_seed": by_seed,
        "validation_perplexity_by_seed": [run.validation_perplexity for run in runs],
        "perplexity_mean": mean,
        "perplexity_spread": max(finite) - min(finite) if finite else None,
        "delta_percent": 100 * (mean / baseline_mean - 1) if mean and baseline_mean else None,
        "relative_to_baseline": mean / baseline_mean if mean and baseline_mean else None,
        "relative_by_seed": [a / b if a and b else None for a, b in zip(by_seed, baseline_by_seed, strict=False)],
        "published_perplexity": "diverged" if printed is not None and math.isnan(printed) else printed,
        "published_shares": list(published.shares) if published else None,
        # What became of its runs and their heads. Shares are of heads in the quarters of the largest entropy.
        "stopped_at_step": [run.stopped_at_step for run in runs],
        "collapsed_layers": [run.collapsed_layers for run in runs],
        "head_share_by_seed": [list(report.share_per_range) if report else None for report in reports],
        "overload_by_seed": [report.overload if report else None for report in reports],
        "collapse_by_seed": [report.collapse if report else None for report in reports],
        "thresholds": [run.thresholds for run in runs],
        "head_entropy_nats": runs[0].head_entropy_nats if runs else None,
        "runs": [asdict(run) for run in runs],
        # What a private pass costs at its own sizes, floating-point operations counted as the paper does, and at GPT-2 small's scale.
        "nonlinear_operations": [str(operation) for operation in nonlinear_operations(architecture, shape)],
        "ffn_gflops": operations.ffn / 1e9,
        "attention_gflops": operations.attention / 1e9,
        "bytes": int(price(prefill_plan(architecture, shape, shape.context)).total.bytes),
        "gpt2_small": gpt2_small.to_dict(),
        "gpt2_small_bytes": there.bytes,
        "bytes_gpt2_small": there.bytes,
        "rounds_gpt2_small": there.rounds,
        "parameters_gpt2_small": there.parameters,
        "flops_gpt2_small": there.flops,
    }
    return {name: values[name] for name in names}
