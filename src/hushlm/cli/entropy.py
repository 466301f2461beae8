"""`hushlm entropy`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hushlm.cli.held_out import open_held_out
from hushlm.report.table import Column, Table, print_json, print_table

if TYPE_CHECKING:
    import torch

    from hushlm.data import Tokens
    from hushlm.entropy import HeadReport

__all__ = ["entropy"]

_HF_CONTEXT = 256
"""Tokens a window of Hugging Face models, whose own contexts of thousands would take minutes where nothing else is asked for."""


@dataclass(frozen=True)
class _Measured:
    """Head entropies, and on what they were measured.

    Attributes:
        architecture: its name; of a Hugging Face model the type in its config.
        where: keys of the JSON document that say which text it was.
        described: which text it was, in words.
        metrics: rows of the training, where there was one.
    """

    architecture: str
    where: dict[str, Any]
    described: str
    head_entropy_nats_LH: torch.Tensor
    context: int
    tokens: int
    metrics: list[dict[str, Any]]
    share_beyond_LH: torch.Tensor | None = None


def entropy(
    checkpoint: Path,
    split: Literal["validation", "test", "train"] = "validation",
    corpus: str | None = None,
    text: Path | None = None,
    context: int | None = None,
    batches: int = 32,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Show what a model's attention heads do: entropies, ranges, overload and collapse.

    A head's entropy is the mean over all rows of its attention, in nats and as a share of the largest mean that causal attention
    can have. Overload: early layers attend to everything alike. Collapse: deep layers attend to one token only.

    Args:
        checkpoint: folder of a checkpoint; or, with --text, any causal language model of Hugging Face: a folder, a .gguf file, or a name.
        split: which part of the corpus to measure on.
        corpus: a folder of text files or "stdlib", instead of the corpus of the run.
        text: a text file to measure on, instead of a corpus.
        context: tokens a window; the checkpoint's own context by default, 256 (or the model's, if shorter) for Hugging Face models.
        batches: how many at most, of the run's own batch size; of one window for Hugging Face models.
        output: a folder for figures (PNG): heat map, shares by range, and of a checkpoint layer entropy against step.
        json: print one JSON document instead of the tables.
    """
    from hushlm.entropy import summarise

    if batches < 1:
        raise ValueError(f"batches = {batches}: evaluate at least one batch.")
    if context is not None and context < 2:
        raise ValueError(f"context = {context}: a window needs at least 2 tokens.")
    if text is not None and corpus is not None:
        raise ValueError("Give --text or --corpus, not both.")
    if _is_hugging_face(checkpoint, text):
        measured = _hugging_face(str(checkpoint), text, context, batches)
    else:
        measured = _ours(checkpoint, split, corpus, text, context, batches)
    report = summarise(measured.head_entropy_nats_LH, measured.context)
    figures = _draw(output, measured.architecture, report, measured.metrics) if output is not None else []
    if json:
        document = {
            "checkpoint": str(checkpoint),
            "architecture": measured.architecture,
            **measured.where,
            "context": measured.context,
            "tokens": measured.tokens,
            "head_share_of_attainable_LH": [[nats / report.attainable_maximum_nats for nats in row] for row in report.head_entropy_nats_LH],
            **report.to_dict(),
            **({} if measured.share_beyond_LH is None else {"head_share_beyond": measured.share_beyond_LH.tolist()}),
            "figures": [str(path) for path in figures],
        }
        print_json(document)
        return
    title = f"{measured.architecture}: head entropies in nats (and share of the attainable {report.attainable_maximum_nats:.2f})"
    print_table(_heads(title, report, f"On {measured.described}, {measured.tokens:,} tokens in windows of {measured.context}."))
    print_table(_ranges(report))
    print(
        f"overload: {_verdict(report.overload, report.overloaded_layers)}   collapse: {_verdict(report.collapse, report.collapsed_layers)}"
    )
    if measured.share_beyond_LH is not None:
        print(_beyond(measured.share_beyond_LH))
    for advice in _advice(report):
        print(advice)
    for path in figures:
        print(path)


def _is_hugging_face(checkpoint: Path, text: Path | None) -> bool:
    """Folders of ours are none of Hugging Face's; what is no folder at all can only be meant as a model of theirs if a text is given."""
    from hushlm.box import checkpoint_folder
    from hushlm.files import is_hugging_face_folder

    if not checkpoint_folder(checkpoint).is_dir():
        return text is not None or checkpoint.suffix == ".gguf"
    return is_hugging_face_folder(checkpoint)


def _hugging_face(name: str, text: Path | None, context: int | None, batches: int) -> _Measured:
    from hushlm.data import fixed_batches
    from hushlm.data.text_windows import tokens_of_file
    from hushlm.huggingface import measure_head_entropies, open_hf_model

    if text is None:
        raise ValueError(f"{name} is a Hugging Face model, which names no corpus: add --text FILE to say what to measure on.")
    model, tokenizer = open_hf_model(name)
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or _HF_CONTEXT
    if context is not None and context > longest:
        raise ValueError(f"context = {context}: {name} reads at most {longest} tokens.")
    context = context or min(_HF_CONTEXT, longest)
    read = tokens_of_file(text, lambda written: tokenizer(written, verbose=False)["input_ids"], context, batches)
    windows = fixed_batches(read.tokens, 1, context, batches)
    measured = measure_head_entropies(model, (window_BT[:, :-1] for window_BT in windows))
    return _Measured(
        config.model_type, {"text": str(text)}, read.described, measured.head_entropy_nats_LH, context, measured.rows, metrics=[]
    )


def _ours(
    checkpoint: Path,
    split: Literal["validation", "test", "train"],
    corpus: str | None,
    text: Path | None,
    context: int | None,
    batches: int,
) -> _Measured:
    from hushlm.data.text_windows import tokens_of_file
    from hushlm.training import evaluate, load_checkpoint

    tokens: Tokens
    if text is None:
        held_out = open_held_out(checkpoint, split, corpus)
        loaded, tokens, described = held_out.checkpoint, held_out.tokens, f"the {held_out.describe()}"
        where = {"split": split, "corpus": held_out.store.corpus_name, "same_corpus": held_out.same_corpus}
    else:
        loaded, where = load_checkpoint(checkpoint), {"text": str(text)}
    config = loaded.config
    if context is not None and context > config.shape.context:
        raise ValueError(f"context = {context}: {checkpoint} reads at most {config.shape.context} tokens.")
    context = context or config.shape.context
    if text is not None:
        read = tokens_of_file(text, lambda written: loaded.tokenizer.encode(written).ids, context, batches * config.training.batch)
        tokens, described = read.tokens, read.described
    evaluation = evaluate(loaded.model, tokens, config.training.batch, context, batches)
    return _Measured(
        config.architecture,
        where,
        described,
        evaluation.head_entropy_nats_LH,
        context,
        evaluation.tokens,
        loaded.metrics,
        evaluation.share_beyond_LH,
    )


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


def _beyond(share_LH: torch.Tensor) -> str:
    """How many scores of a power kernel are where its weights grow again."""
    layer, head = divmod(int(share_LH.argmax()), share_LH.shape[1])
    return (
        f"Scores so low that the power kernel's weights grow again: {share_LH.mean():.2%} of all, at most {share_LH.max():.2%} of a head's "
        f"(layer {layer}, head {head})."
    )


def _advice(report: HeadReport) -> list[str]:
    """What a verdict means, and what helps."""
    found = []
    if report.overload:
        found.append(
            "Overload: these layers attend to nearly every token alike, so their heads tell tokens apart only little. Train longer, or "
            "train with the entropy regulariser (an EReg architecture, or EntropyTrainer for a Hugging Face model)."
        )
    if report.collapse:
        found.append(
            "Collapse: these layers attend to a single token, so that training tends to become unstable. Lower training.learning_rate, or "
            "choose an architecture with normalised queries and keys or with ScFuFFN; see `hushlm architectures`."
        )
    return found


def _draw(output: Path, architecture: str, report: HeadReport, metrics: list[dict[str, Any]]) -> list[Path]:
    from hushlm.report.figures import LayerCourse, head_entropy_figure, head_share_figure, layer_entropy_figure, save_figure

    figures = {
        "head-entropy.png": head_entropy_figure([(architecture, report.head_entropy_nats_LH)], report.attainable_maximum_nats),
        "head-share.png": head_share_figure([(architecture, report.share_per_range)]),
    }
    if metrics:
        figures["layer-entropy.png"] = layer_entropy_figure(
            [LayerCourse.from_metrics(architecture, metrics, report.attainable_maximum_nats)]
        )
    return [save_figure(figure, output / name) for name, figure in figures.items()]
