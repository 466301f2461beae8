"""`hushlm eval`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from hushlm.cli.held_out import open_held_out
from hushlm.report.table import Column, Table, print_json, print_table

__all__ = ["evaluate"]


def evaluate(
    checkpoint: Path,
    split: Literal["validation", "test", "train"] = "validation",
    corpus: str | None = None,
    batches: int = 128,
    json: bool = False,
) -> None:
    """Measure a checkpoint's perplexity on held-out text.

    The same windows are read every time, evenly spaced over the split, none of them twice.

    Args:
        checkpoint: folder of a checkpoint.
        split: which part of the corpus; choose settings on "validation", report "test".
        corpus: a folder of text files or "stdlib", instead of the corpus of the run.
        batches: how many at most, of the run's own batch size and context.
        json: print one JSON document instead of the table.
    """
    if batches < 1:
        raise ValueError(f"batches = {batches}: evaluate at least one batch.")
    held_out = open_held_out(checkpoint, split, corpus)
    evaluation = held_out.evaluate(batches)
    bytes_per_token = held_out.store.split_bytes[split] / len(held_out.tokens)
    row = {
        "checkpoint": str(checkpoint),
        "architecture": held_out.checkpoint.config.architecture,
        "split": split,
        "corpus": held_out.store.corpus_name,
        "same_corpus": held_out.same_corpus,
        "tokens": evaluation.tokens,
        "loss_nats": evaluation.loss_nats,
        "perplexity": evaluation.perplexity if math.isfinite(evaluation.perplexity) else None,
        "bits_per_byte": evaluation.loss_nats / math.log(2) / bytes_per_token,
    }
    if json:
        print_json(row)
        return
    columns = (
        Column("architecture", "architecture"),
        Column("tokens", "tokens", ",", "right"),
        Column("loss_nats", "loss (nats a token)", ".4f", "right"),
        Column("perplexity", "perplexity", ".3f", "right"),
        Column("bits_per_byte", "bits a byte", ".4f", "right"),
    )
    print_table(Table(f"{checkpoint} on the {held_out.describe()}", columns, [row]))
