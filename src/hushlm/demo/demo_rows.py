"""The demo's table: what each trained row reaches, what its heads do, and what its private answer would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import flops, nonlinear_operations, price
from hushlm.data import TokenStore
from hushlm.demo.jobs import RunOutcome
from hushlm.entropy import HeadReport, summarise
from hushlm.plan import prefill_plan
from hushlm.report.table import Column, Table
from hushlm.training import evaluate, load_checkpoint

__all__ = ["DemoRow", "choose", "rows_table", "trained_row"]


@dataclass(frozen=True)
class DemoRow:
    """One architecture of the table.

    Attributes:
        name: the architecture's name.
        validation_perplexity, test_perplexity: what its model reaches; None for a run that diverged.
        report: what its heads do on the validation split; None for a run that diverged.
        stopped_at_step: the update at which a run that diverged was stopped.
        nonlinear_operations: its nonlinear operations at the demo's shape, as the paper writes them.
        ffn_gflops, attn_gflops: 10^9 floating-point operations in the feed-forward networks and in attention during one pass over a full
            context, counted as the paper does.
        predicted_bytes: what a private pass over a full context that reveals the next token moves, both directions together.
        training_seconds: how long the training loop took, with another run beside it.
    """

    name: str
    validation_perplexity: float | None
    test_perplexity: float | None
    report: HeadReport | None
    stopped_at_step: int | None
    nonlinear_operations: tuple[str, ...]
    ffn_gflops: float
    attn_gflops: float
    predicted_bytes: int
    training_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """The row as summary.json holds it."""
        report = self.report
        return {
            "name": self.name,
            "validation_perplexity": self.validation_perplexity,
            "test_perplexity": self.test_perplexity,
            "stopped_at_step": self.stopped_at_step,
            "head_share": list(report.share_per_range) if report else None,
            "head_share_of_log_context": list(report.share_per_range_of_log_context) if report else None,
            "maximum_head_entropy_nats": report.maximum_nats if report else None,
            "overload": report.overload if report else None,
            "overloaded_layers": list(report.overloaded_layers) if report else None,
            "collapse": report.collapse if report else None,
            "collapsed_layers": list(report.collapsed_layers) if report else None,
            "nonlinear_operations": list(self.nonlinear_operations),
            "ffn_gflops": self.ffn_gflops,
            "attn_gflops": self.attn_gflops,
            "predicted_bytes": self.predicted_bytes,
            "training_seconds": self.training_seconds,
        }


def trained_row(name: str, outcome: RunOutcome, shape: ModelShape, store: TokenStore, batches: int) -> DemoRow:
    """Evaluate a finished run on both held-out splits.

    Args:
        name: the architecture's name.
        outcome: how its run ended.
        shape: the model's sizes, with the tokenizer's vocabulary.
        store: the tokens of the demo's corpus.
        batches: how many batches each evaluation reads at most.
    """
    validation = test = report = None
    if outcome.stopped_at_step is None:
        model = load_checkpoint(outcome.config.output).model
        batch = outcome.config.training.batch
        evaluation = evaluate(model, store.tokens["validation"], batch, shape.context, batches)
        validation = _finite(evaluation.perplexity)
        test = _finite(evaluate(model, store.tokens["test"], batch, shape.context, batches).perplexity)
        report = summarise(evaluation.head_entropy_nats_LH, shape.context)
    architecture = parse(name)
    counted = flops(architecture, shape)
    return DemoRow(
        name=name,
        validation_perplexity=validation,
        test_perplexity=test,
        report=report,
        stopped_at_step=outcome.stopped_at_step,
        nonlinear_operations=tuple(map(str, nonlinear_operations(architecture, shape))),
        ffn_gflops=counted.ffn / 1e9,
        attn_gflops=counted.attention / 1e9,
        predicted_bytes=int(price(prefill_plan(architecture, shape, shape.context)).total.bytes),
        training_seconds=outcome.seconds,
    )


def choose(rows: Sequence[DemoRow], reference: str, wanted: str | None) -> tuple[DemoRow, str]:
    """The row to serve, and why.

    The cheapest by predicted bytes whose validation perplexity is at least as good as the reference's; `wanted` overrules it.

    Raises:
        ValueError: if the row wanted has no checkpoint, or no row has one.
    """
    trained = {row.name: row.validation_perplexity for row in rows if row.validation_perplexity is not None}
    candidates = [row for row in rows if row.name in trained]
    if wanted is not None:
        for row in candidates:
            if row.name == wanted:
                return row, "asked for"
        raise ValueError(f"{wanted} has no checkpoint to answer with: choose one of {', '.join(trained) or 'none'}.")
    if not candidates:
        raise ValueError("Every run diverged, so there is no model to answer with: lower the learning rate.")
    limit = trained.get(reference, math.inf)
    good = [row for row in candidates if trained[row.name] <= limit]
    best = min(good, key=lambda row: row.predicted_bytes)
    return best, f"the fewest predicted bytes among the rows at least as good as {reference}"


def rows_table(rows: Sequence[DemoRow], title: str) -> Table:
    """The table that the demo prints and writes."""
    columns = (
        Column("name", "architecture"),
        Column("validation_perplexity", "validation\nperplexity", ".2f", "right"),
        Column("test_perplexity", "test\nperplexity", ".2f", "right"),
        Column("head_share", "heads (%) by\nentropy range", _shares, "right"),
        Column("overload", "over-\nload", _verdict),
        Column("collapse", "col-\nlapse", _verdict),
        Column("nonlinear_operations", "nonlinear\noperations", lambda found: "\n".join(map(_compact, found))),
        Column("ffn_gflops", "FFN\nGFLOP", ".4f", "right"),
        Column("attn_gflops", "attention\nGFLOP", ".4f", "right"),
        Column("predicted_bytes", "predicted\nMB", lambda count: f"{count / 1e6:.1f}", "right"),
    )
    note = (
        "Ranges: up to m/4, m/2, 3m/4 and m, the model's largest head entropy. Predicted: bytes of a private pass over a full context, "
        "both directions, 1 MB = 10^6."
    )
    return Table(title, columns, [row.to_dict() for row in rows], note)


def _shares(shares: Sequence[float]) -> str:
    return "/".join(f"{100 * share:.0f}" for share in shares)


def _compact(operation: str) -> str:
    """ "SM: 24 x R^128x128" as "SM 24x128x128"."""
    return operation.replace(": ", " ").replace(" x R^", "x")


def _verdict(found: bool) -> str:
    return "yes" if found else "no"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
