"""`hushlm adapt`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hushlm.adaptation.adapt_model import AdaptReport

__all__ = ["adapt"]


def adapt(
    checkpoint: Path,
    output: Path,
    architecture: str,
    text: str = "stdlib",
    fit_tokens: int = 8192,
    steps: int = 0,
    batch: int = 8,
    learning_rate: float = 3e-4,
    device: Literal["cpu", "cuda"] = "cpu",
    cache: Path = Path("runs/data"),
    resume: Literal["auto"] | None = None,
    checkpoint_every: int | None = None,
    progress: Literal["auto", "json", "none"] = "auto",
    json: bool = False,
) -> int:
    """Make a trained model cheaper: another attention kernel, another activation, the same weights.

    First the weights are carried over, and a temperature is chosen for a new kernel. Then each layer's map after its activation is fitted
    in closed form on a sample of your text, so that the stream comes out as it did before. Then, with --steps, everything is trained
    towards the old model's predictions on that text. Perplexity on text kept apart and the private price are told for each step: stop
    where both suit you. The same command with --resume auto goes on with a training that was interrupted.

    Args:
        checkpoint: folder of the model, of `hushlm train` or `hushlm import`; box is the one that comes with the package.
        output: folder of the new checkpoint, which `hushlm export` takes; an earlier checkpoint there is replaced.
        architecture: the new architecture's name, with the same blocks and normalisation: for GPT-2, SM2(th)+LN+R.
        text: a text file or a folder of them, of the kind that the model will be asked; by default Python's own standard library.
        fit_tokens: how many tokens of it to fit on in closed form; 0 leaves that out.
        steps: how many updates to train afterwards; 0 leaves that out.
        batch: windows of the model's context that an update learns from.
        learning_rate: at its peak.
        device: where to train; cuda is one GPU.
        cache: folder for the text in tokens.
        resume: auto goes on with an interrupted training.
        checkpoint_every: updates between checkpoints on the way; only the last one by default.
        progress: auto (bars on a terminal, lines elsewhere), json (one event a line on standard output), or none.
        json: print one JSON document instead of a table.
    """
    from hushlm.adaptation.adapt_model import Stage, adapted_data
    from hushlm.adaptation.adapt_model import adapt as run
    from hushlm.cli.reading import open_and_tell
    from hushlm.cli.train import StepReporter, emit, ended_early
    from hushlm.config import TrainingConfig
    from hushlm.training import Divergence, Interrupted, Preempted, load_checkpoint

    if fit_tokens < 0 or steps < 0:
        raise ValueError(f"fit_tokens = {fit_tokens}, steps = {steps}: neither may be negative.")
    source = load_checkpoint(checkpoint)
    data = adapted_data(source, text, cache)
    store = open_and_tell(data, quiet=progress != "auto")
    training = None
    if steps:
        warmup = min(TrainingConfig.warmup_steps, steps // 10)
        training = TrainingConfig(
            steps=steps,
            batch=batch,
            learning_rate=learning_rate,
            warmup_steps=warmup,
            weight_decay=0.0,
            device=device,
            teacher_weight=1.0,
        )

    def tell(stage: Stage) -> None:
        if progress == "auto":
            print(f"{stage.name}: {stage.architecture}, perplexity {stage.perplexity:.3f}", file=sys.stderr, flush=True)
        elif progress == "json":
            emit({"event": "stage", "name": stage.name, "architecture": stage.architecture})

    reporter = StepReporter(architecture, max(1, steps), progress if steps else "none")
    try:
        with reporter:
            report = run(
                source,
                output,
                architecture,
                store,
                data,
                fit_tokens=fit_tokens,
                training=training,
                on_stage=tell,
                on_step=reporter.step,
                resume_from=resume,
                checkpoint_every=checkpoint_every,
            )
    except (Divergence, Preempted, Interrupted) as ended:
        return ended_early(ended, steps, events=progress == "json", json=json, first=True)
    document = _with_prices(report)
    if progress == "json":
        emit({"event": "done", **document})
    elif json:
        from hushlm.report.table import print_json

        print_json(document)
    else:
        _print(report, document)
    return 0


def _with_prices(report: AdaptReport) -> dict[str, Any]:
    """The report, and with each stage what a first token costs privately."""
    from hushlm.cli.first_token import first_token_price

    document = report.to_dict()
    for stage in document["stages"]:
        stage["price"] = first_token_price(stage["architecture"], report.shape)
    return document


def _print(report: AdaptReport, document: dict[str, Any]) -> None:
    from hushlm.cli.first_token import PRICE_COLUMNS
    from hushlm.report.table import Column, Table, print_table

    rows = [stage | stage["price"] for stage in document["stages"]]
    if report.temperature is not None:
        print(f"Temperature of the attention scores: {report.temperature:g} times what it was, chosen by the loss.")
    if report.layers:
        changed = [layer for layer in report.layers if layer.ridge is not None]
        worst = max(report.layers, key=lambda layer: layer.after)
        print(
            f"Fitted {len(changed)} of {len(report.layers)} layers on {report.fitted_tokens:,} tokens; the stream is furthest from the old "
            f"model's after layer {worst.layer}, by {worst.after:.3f} of its size."
        )
    columns = (
        Column("name", "model"),
        Column("architecture", "architecture"),
        Column("perplexity", "perplexity", _rounded(3), "right"),
        Column("ratio", "ratio", _rounded(4), "right"),
        *PRICE_COLUMNS,
    )
    tokens = document["stages"][0]["price"]["tokens"]
    title = f"On {report.measured_tokens:,} tokens kept apart; first private token of a prompt of {tokens}, predicted"
    print_table(Table(title, columns, rows, f"Next: hushlm export {report.folder} FOLDER"))


def _rounded(digits: int) -> Callable[[float | None], str]:
    """Of numbers that may be infinite, which a report holds as None."""
    return lambda number: "-" if number is None else f"{number:.{digits}f}"
