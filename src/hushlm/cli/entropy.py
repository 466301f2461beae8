"""`hushlm entropy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hushlm.cli.held_out import open_held_out
from hushlm.report.table import Column, Table, print_json, print_table

if TYPE_CHECKING:
    from hushlm.entropy import HeadReport

__all__ = ["entropy"]


def entropy(
    checkpoint: Path,
    split: Literal["validation", "test", "train"] = "validation",
    corpus: str | None = None,
    batches: int = 32,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Show what a checkpoint's attention heads do: entropies, ranges, overload and collapse.

    A head's entropy is the mean over all rows of its attention, in nats and as a share of the largest mean that causal attention
    can have. Overload: early layers attend to everything alike. Collapse: deep layers attend to one token only.

    Args:
        checkpoint: folder of a checkpoint.
        split: of the corpus.
        corpus: a folder of text files or "stdlib", instead of the corpus of the run.
        batches: how many at most, of the run's own batch size and context.
        output: a folder for figures (PNG): heat map, shares by range, layer entropy against step.
        json: print one JSON document instead of the tables.
    """
    from hushlm.entropy import summarise

    if batches < 1:
        raise ValueError(f"batches = {batches}: evaluate at least one batch.")
    held_out = open_held_out(checkpoint, split, corpus)
    config = held_out.checkpoint.config
    evaluation = held_out.evaluate(batches)
    report = summarise(evaluation.head_entropy_nats_LH, config.shape.context)
    figures = _draw(output, config.architecture, report, held_out.checkpoint.metrics) if output is not None else []
    if json:
        document = {
            "checkpoint": str(checkpoint),
            "architecture": config.architecture,
            "split": split,
            "corpus": held_out.store.corpus_name,
            "same_corpus": held_out.same_corpus,
            "tokens": evaluation.tokens,
            "head_share_of_attainable_LH": [[nats / report.attainable_maximum_nats for nats in row] for row in report.head_entropy_nats_LH],
            **report.to_dict(),
            "figures": [str(path) for path in figures],
        }
        print_json(document)
        return
    title = f"{config.architecture}: head entropies in nats (and share of the attainable {report.attainable_maximum_nats:.2f})"
    print_table(_heads(title, report, f"On the {held_out.describe()}, {evaluation.tokens:,} tokens."))
    print_table(_ranges(report))
    print(
        f"overload: {_verdict(report.overload, report.overloaded_layers)}   collapse: {_verdict(report.collapse, report.collapsed_layers)}"
    )
    for path in figures:
        print(path)


def _heads(title: str, report: HeadReport, note: str) -> Table:
    """Layers down, heads across."""
    heads = len(report.head_entropy_nats_LH[0])

    def cell(nats: float) -> str:
        return f"{nats:.2f} ({nats / report.attainable_maximum_nats:.2f})"

    rows: list[dict[str, Any]] = []
    for layer, entropies in enumerate(report.head_entropy_nats_LH):
        flags = [
            name for name, layers in (("overload", report.overloaded_layers), ("collapse", report.collapsed_layers)) if layer in layers
        ]
        cells = {f"head{head}": cell(nats) for head, nats in enumerate(entropies)}
        rows.append({"layer": layer, **cells, "mean": cell(sum(entropies) / heads), "flag": ", ".join(flags)})
    columns = [Column("layer", "layer", align="right"), *(Column(f"head{head}", f"head {head}", align="right") for head in range(heads))]
    return Table(title, (*columns, Column("mean", "mean", align="right"), Column("flag", "")), rows, note)


def _ranges(report: HeadReport) -> Table:
    """Shares of heads by quarters of the largest entropy and of log T."""
    rows = []
    for label, maximum, shares in (
        ("largest entropy observed, m", report.maximum_nats, report.share_per_range),
        ("log T", report.log_context_nats, report.share_per_range_of_log_context),
    ):
        rows.append({"of": label, "nats": maximum, **{f"quarter{i}": share for i, share in enumerate(shares)}})
    quarters = ("0 to 1/4", "1/4 to 1/2", "1/2 to 3/4", "3/4 to 1")
    columns = (
        Column("of", "quarters of"),
        Column("nats", "nats", ".3f", "right"),
        *(Column(f"quarter{i}", title, ".0%", "right") for i, title in enumerate(quarters)),
    )
    return Table("Share of heads in each range", columns, rows)


def _verdict(found: bool, layers: tuple[int, ...]) -> str:
    named = f" (layers {', '.join(map(str, layers))})" if layers else ""
    return ("yes" if found else "no") + named


def _draw(output: Path, architecture: str, report: HeadReport, metrics: list[dict[str, Any]]) -> list[Path]:
    from hushlm.report.figures import LayerCourse, head_entropy_figure, head_share_figure, layer_entropy_figure, save_figure

    course = LayerCourse.from_metrics(architecture, metrics, report.attainable_maximum_nats)
    figures = {
        "head-entropy.png": head_entropy_figure([(architecture, report.head_entropy_nats_LH)], report.attainable_maximum_nats),
        "head-share.png": head_share_figure([(architecture, report.share_per_range)]),
        "layer-entropy.png": layer_entropy_figure([course]),
    }
    return [save_figure(figure, output / name) for name, figure in figures.items()]
