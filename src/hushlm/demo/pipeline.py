"""The demo's stages, one after another; every stage says in one line what it does."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hushlm.box import MODEL, NAME
from hushlm.config import ModelShape
from hushlm.data import TokenStore, open_token_store
from hushlm.demo.demo_rows import DemoRow, choose, rows_table, trained_row
from hushlm.demo.demo_settings import COLLAPSE, REFERENCE, ROWS, DemoSettings
from hushlm.demo.jobs import RunOutcome, run_all
from hushlm.demo.private_answer import AnswerComparison, answer_privately
from hushlm.entropy import attainable_maximum_nats
from hushlm.extras import missing_packages, require_engine
from hushlm.files import write_atomic
from hushlm.processors import processors
from hushlm.report.figures import LayerCourse, head_entropy_figure, head_share_figure, layer_entropy_figure, save_figure
from hushlm.report.table import Table

__all__ = ["run_demo"]

Say = Callable[[str], None]
STAGES = 5


def run_demo(settings: DemoSettings, say: Say, show: Callable[[Table], None]) -> dict[str, Any]:
    """Run every stage and write `summary.json`.

    Args:
        settings: what to run.
        say: prints a line.
        show: prints a table.

    Returns: the summary as written; docs/demo.md describes its keys.

    Raises:
        ValueError: in one sentence, if a stage can't be done.
    """
    # The tensors are small: further threads would only wait for each other, and for long on a busy machine.
    torch.set_num_threads(1)
    begin = time.monotonic()
    if settings.private_architecture not in (None, *ROWS):
        raise ValueError(f"{settings.private_architecture} is not a row of the demo: choose one of {', '.join(ROWS)}.")
    require_engine()  # the demo ends with a private answer

    def stage(number: int, text: str) -> None:
        say(f"[{number}/{STAGES}, {_clock(time.monotonic() - begin)}] {text}")

    stage(1, f"reading the corpus ({settings.data.corpus}) as {settings.data.tokenizer}")
    store = open_token_store(settings.data)
    for line in store.report.lines():
        say(f"  {line}")
    say(f"  V={store.vocabulary}; {store.folder}")
    shape = replace(settings.shape, vocabulary=store.vocabulary)

    parallel = min(2, processors())
    stage(
        2, f"training {', '.join(ROWS)} and {COLLAPSE} until it collapses, {parallel} at a time, seed {settings.seed}; {_sizes(settings)}"
    )
    outcomes = _train(settings, parallel)
    collapse = outcomes.pop(COLLAPSE)
    say(f"  {COLLAPSE}, {_setting(collapse)}: {_collapse_sentence(collapse)}")
    for name, outcome in outcomes.items():
        if outcome.stopped_at_step is not None:
            say(f"  {name} did not come through. {outcome.reason}")

    stage(3, "measuring perplexity and head entropies on held-out text, and what a private answer would cost")
    rows = [trained_row(name, outcomes[name], shape, store, settings.evaluation_batches) for name in ROWS]
    table = rows_table(rows, f"{store.corpus_name}, {settings.data.tokenizer}, {_sizes(settings)}, seed {settings.seed}")
    show(table)
    write_atomic(settings.output / "table.md", table.to_markdown())
    figures = _draw(settings, rows, outcomes, collapse)
    say(f"  figures: {', '.join(str(path) for path in figures)}")

    chosen, reason = choose(rows, REFERENCE, settings.private_architecture)
    say(f"  the row to serve: {chosen.name}, {reason}")
    who = "the model in the box, which comes with the package" if settings.uses_box else chosen.name
    stage(4, f"answering privately with {who}: a server process with the weights, a client process with the prompt")
    checkpoint = MODEL if settings.uses_box else outcomes[chosen.name].config.output
    answer = answer_privately(checkpoint, store, settings, say)
    _show_answer(answer, say)

    stage(5, "writing the report and the summary")
    report = _report(settings, outcomes, collapse, say)
    summary = _summary(settings, store, shape, rows, outcomes, collapse, answer, figures)
    summary["wall_seconds"] = round(time.monotonic() - begin, 1)
    path = settings.output / "summary.json"
    write_atomic(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    _farewell(settings, outcomes[chosen.name], path, report, summary["wall_seconds"], say)
    return summary


def _train(settings: DemoSettings, parallel: int) -> dict[str, RunOutcome]:
    configs = {COLLAPSE: settings.collapse_config(), **{name: settings.row_config(name) for name in reversed(ROWS)}}
    return run_all(configs, settings.output / "runs", parallel)


def _sizes(settings: DemoSettings) -> str:
    shape, training = settings.shape, settings.training
    return f"L={shape.layers} D={shape.width} H={shape.heads} T={shape.context} B={training.batch}, {training.steps} steps"


def _setting(outcome: RunOutcome) -> str:
    training = outcome.config.training
    return f"L={outcome.config.shape.layers}, learning rate {training.learning_rate:g}, no clipping"


def _collapse_sentence(outcome: RunOutcome) -> str:
    if outcome.stopped_at_step is None:
        return f"did NOT collapse within {outcome.config.training.steps} steps with this seed"
    layers = ", ".join(map(str, outcome.layers))
    where = f"entropy fell to zero in layers {layers}" if layers else "no layer's entropy had fallen to zero before"
    return f"stopped by the watch before update {outcome.stopped_at_step}; {where}"


def _draw(settings: DemoSettings, rows: Sequence[DemoRow], outcomes: Mapping[str, RunOutcome], collapse: RunOutcome) -> list[Path]:
    """Heat maps, shares by range, and layer entropy against step; the collapsing run beside the others."""
    maximum = attainable_maximum_nats(settings.shape.context)
    collapse_maximum = attainable_maximum_nats(settings.collapse_shape.context)
    label = f"{COLLAPSE}, {settings.collapse_shape.layers} layers"
    panels = [(row.name, row.report.head_entropy_nats_LH) for row in rows if row.report]
    courses = [LayerCourse.from_metrics(row.name, outcomes[row.name].metrics, maximum, row.stopped_at_step) for row in rows]
    if collapse.metrics:
        last = collapse.metrics[-1]
        panels.append((f"{label}, step {last['step']}", last["head_entropy_nats"]))
        courses.append(LayerCourse.from_metrics(label, collapse.metrics, collapse_maximum, collapse.stopped_at_step))
    folder = settings.output / "figures"
    return [
        save_figure(head_entropy_figure(panels, max(maximum, collapse_maximum)), folder / "head-entropy.png"),
        save_figure(head_share_figure([(row.name, row.report.share_per_range) for row in rows if row.report]), folder / "head-share.png"),
        save_figure(layer_entropy_figure(courses), folder / "layer-entropy.png"),
    ]


def _show_answer(answer: AnswerComparison, say: Say) -> None:
    found = answer.to_dict()
    say(f"  prompt, its last tokens:  {answer.prompt_text[-60:]!r}")
    say(f"  private answer:           {found['text']!r}")
    say(f"  tokens, private:   {answer.tokens}")
    say(f"  tokens, plaintext: {answer.plaintext_tokens}")
    if answer.tokens_equal_plaintext:
        say(f"  equal; the two likeliest tokens differ by at least {answer.smallest_margin:.3f} in logits along the way")
    else:
        say("  NOT EQUAL: the private answer is not the plaintext model's greedy answer")
    sent, received = found["bytes_client_to_server"] / 1e6, found["bytes_server_to_client"] / 1e6
    say(
        f"  client to server {sent:.1f} MB, server to client {received:.1f} MB, {found['messages']} messages, "
        f"{found['seconds']:.1f} s for {len(answer.tokens)} tokens; set-up {found['setup_bytes'] / 1e6:.1f} MB"
    )
    say(f"  before the question, the same for any prompt: {found['prepared_bytes'] / 1e6:.1f} MB, {found['prepared_seconds']:.1f} s")
    say(f"  predicted {found['predicted_bytes'] / 1e6:.1f} MB, counted {sent + received:.1f} MB")


def _summary(
    settings: DemoSettings,
    store: TokenStore,
    shape: ModelShape,
    rows: Sequence[DemoRow],
    outcomes: Mapping[str, RunOutcome],
    collapse: RunOutcome,
    answer: AnswerComparison,
    figures: Sequence[Path],
) -> dict[str, Any]:
    return {
        "wall_seconds": None,
        "seed": settings.seed,
        "version": version("hushlm"),
        "python": platform.python_version(),
        "corpus": {
            "name": store.corpus_name,
            "tokenizer": settings.data.tokenizer,
            "documents": store.documents,
            "bytes": store.bytes,
            "fingerprint": store.fingerprint,
        },
        "shape": shape.to_dict(),
        "steps": settings.training.steps,
        "architectures": [{**row.to_dict(), "checkpoint": str(outcomes[row.name].config.output)} for row in rows],
        "collapse": {
            "architecture": COLLAPSE,
            "layers_of_model": settings.collapse_shape.layers,
            "learning_rate": settings.collapse_training.learning_rate,
            "stopped_at_step": collapse.stopped_at_step,
            "layers": list(collapse.layers),
            "reason": collapse.reason,
        },
        "private": {"model": NAME if settings.uses_box else answer.architecture, **answer.to_dict()},
        "figures": [str(path) for path in figures],
    }


def _report(settings: DemoSettings, outcomes: Mapping[str, RunOutcome], collapse: RunOutcome, say: Say) -> Path | None:
    """The page of all runs that recorded a step; None without the extra that draws it, which the demo can do without."""
    if missing_packages("report"):
        say("  no report.html: it needs pip install 'hushlm[report]'")
        return None
    from hushlm.report.page.document import write_report

    runs = [outcome.config.output for outcome in (*(outcomes[name] for name in ROWS), collapse) if outcome.metrics]
    path = settings.output / "report.html"
    write_report(runs, path)
    return path


def _farewell(settings: DemoSettings, outcome: RunOutcome, summary: Path, report: Path | None, seconds: float, say: Say) -> None:
    page = "" if report is None else f"{report.name}, "
    say(f"Done in {_clock(seconds)}. Everything lies in {settings.output}: runs/, figures/, private/, table.md, {page}{summary.name}.")
    if report is not None:
        say(f"Open in a browser: {report}")
    say("Try next:")
    say(f"  hushlm entropy {outcome.config.output}")
    say(f"  hushlm ask 'def __init__(self, ' --mode simulate --model {settings.output / 'private'} --new-tokens 16")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
