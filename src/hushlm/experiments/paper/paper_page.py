"""What came out of an experiment of the paper, for readers: a page in Markdown with verdicts, a table as CSV, and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from hushlm.entropy.diagnostics import attainable_maximum_nats, summarise
from hushlm.experiments.documents import document_stem
from hushlm.experiments.paper.claims import near_uniform_share
from hushlm.experiments.paper.paper_figures import seed_perplexity_figure, top_share_figure
from hushlm.experiments.runs import RunRecord
from hushlm.experiments.study import Outcome, RowOutcome
from hushlm.files import write_atomic
from hushlm.report.figures import LayerCourse, head_entropy_figure, head_share_figure, layer_entropy_figure, save_figure
from hushlm.report.table import Column, Table

__all__ = ["outcome_table", "write_index", "write_paper_page"]


def outcome_table(document: Mapping[str, Any]) -> Table:
    """A table of the tuned rows: what is published of each, and what was measured."""
    columns = (
        Column("name", "architecture"),
        Column("published_perplexity", "published\nperplexity", lambda value: value if isinstance(value, str) else f"{value:.2f}", "right"),
        Column("perplexity", "test\nperplexity", align="right"),
        Column("delta_percent", "delta\n%", "+.1f", "right"),
        Column("seeds", "by seed", align="right"),
        Column("learning_rate", "learning\nrate", "g", "right"),
        Column("shares", "heads (%) by\nentropy range", align="right"),
        Column("ffn_gflops", "FFN\nGFLOP", ".4f", "right"),
        Column("attention_gflops", "attention\nGFLOP", ".4f", "right"),
        Column("megabytes", "private\nMB", ".0f", "right"),
        Column("gpt2_gigabytes", "GB at GPT-2\nsmall", ".2f", "right"),
    )
    rows = [_cells(row) for row in document["rows"] if not row["stress"]]
    return Table(f"{document['name']}: {document['title']} ({document['preset']})", columns, rows, _note(document))


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    label = f" ({row['label']})" if row["label"] else ""
    mean, found = row["perplexity_mean"], row["perplexity_by_seed"]
    shares = [share for share in row["head_share_by_seed"] if share]
    return {
        "name": row["architecture"] + label,
        "published_perplexity": row["published_perplexity"],
        "perplexity": f"{mean:.3f} ± {row['perplexity_spread'] / 2:.3f}" if mean else "diverged" if found else None,
        "delta_percent": row["delta_percent"],
        "seeds": " / ".join("-" if value is None else f"{value:.2f}" for value in found) or None,
        "learning_rate": row["learning_rate"],
        "shares": "/".join(f"{100 * sum(share[i] for share in shares) / len(shares):.0f}" for i in range(4)) if shares else None,
        "ffn_gflops": row["ffn_gflops"],
        "attention_gflops": row["attention_gflops"],
        "megabytes": row["bytes"] / 1e6,
        "gpt2_gigabytes": row["gpt2_small_bytes"] / 1e9,
    }


def _note(document: Mapping[str, Any]) -> str:
    return (
        f"Mean over {document['seeds']} seeds ± half the spread, test split; the learning rate of each row is the best of the preset's "
        "on the validation split with seed 0. Delta to the first row. Published: at the paper's size, on another corpus and other tokens. "
        "Private: predicted bytes of a pass over a full context, both directions, at the measured shape and at GPT-2 small's."
    )


def write_paper_page(outcome: Outcome, document: Mapping[str, Any], folder: Path) -> Path:
    """Write NAME-PRESET.md, .csv and a PNG for each figure into a folder.

    Args:
        outcome: what came out of the experiment.
        document: the same as a document (`document_of`).
        folder: where to write.

    Returns: the Markdown's path.
    """
    stem = document_stem(document)
    folder.mkdir(parents=True, exist_ok=True)
    table = outcome_table(document)
    pictures = _pictures(outcome)
    for kind, figure in pictures.items():
        save_figure(figure, folder / f"{stem}-{kind}.png")
    write_atomic(folder / f"{stem}.csv", _csv(table))
    path = folder / f"{stem}.md"
    write_atomic(path, _markdown(document, table, [f"{stem}-{kind}.png" for kind in pictures]))
    return path


def write_index(documents: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write README.md into a folder of pages, with every claim of every page and its verdict.

    Returns: its path.
    """
    lines = [
        "# The paper, claim by claim",
        "",
        "Written by `hushlm reproduce`. A comparison is reproduced when every seed shows it and contradicted when every seed shows the "
        "opposite; an order, by Spearman's rank correlation (at least 0.8, or below 0). The numbers stand on each page.",
        "",
        "| page | claim | verdict |",
        "|---|---|---|",
    ]
    for document in documents:
        stem = document_stem(document)
        for claim in document["claims"]:
            whose = " (our own claim)" if claim["ours"] else ""
            lines.append(f"| [{document['name']} ({document['preset']})]({stem}.md) | {claim['text']}{whose} | {claim['verdict']} |")
    without = [f"[{document['name']}]({document_stem(document)}.md)" for document in documents if not document["claims"]]
    if without:
        lines += ["", f"Figures without a claim of their own: {', '.join(without)}."]
    path = folder / "README.md"
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def _markdown(document: Mapping[str, Any], table: Table, pictures: Sequence[str]) -> str:
    shape, training = document["base"]["shape"], document["base"]["training"]
    corpus = document["corpus"] or {"name": "-", "fingerprint": "-"}
    lines = [
        f"# {document['name']}: {document['title']} ({document['preset']})",
        "",
        f"Made by `{document['command']}`"
        + ("." if document["complete"] else ", which has not finished: rows without figures are still to be run."),
        "",
        f"L={shape['layers']} H={shape['heads']} D={shape['width']} T={shape['context']}, {training['steps']} steps of {training['batch']} "
        f"sequences; corpus {corpus['name']} ({corpus['fingerprint'][:12]}), tokenizer {document['base']['data']['tokenizer']}.",
        "",
    ]
    if document["claims"]:
        lines += ["| claim | verdict | evidence |", "|---|---|---|"]
        for claim in document["claims"]:
            whose = " (our own claim)" if claim["ours"] else ""
            lines.append(f"| {claim['text']}{whose} | **{claim['verdict']}** | {claim['evidence']} |")
        lines.append("")
    lines += [table.to_markdown(), table.note, ""]
    stress = [row for row in document["rows"] if row["stress"] and row["runs"]]
    if stress:
        settings = stress[0]["runs"][0]["settings"]
        lines += [
            f"Divergence setting: {settings['shape']['layers']} layers, learning rate {settings['training']['learning_rate']:g}, "
            f"{settings['training']['steps']} steps, no clipping unless said, one seed.",
            "",
            "| architecture | clipping | stopped before update | layers at zero entropy |",
            "|---|---|---|---|",
        ]
        for row in stress:
            run = row["runs"][0]
            clip = run["settings"]["training"]["clip_norm"]
            stop = "ran to the end" if run["stopped_at_step"] is None else run["stopped_at_step"]
            layers = ", ".join(map(str, run["collapsed_layers"])) or "-"
            lines.append(f"| {row['architecture']} | {'none' if clip is None else clip} | {stop} | {layers} |")
        lines.append("")
    lines += [f"![{document['title']}]({name})\n" for name in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [column.key for column in table.columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return buffer.getvalue()


def _pictures(outcome: Outcome) -> dict[str, Any]:
    """The figures by the ending of their file's name. Those whose rows were not run are left out."""
    tuned = [row for row in outcome.rows if not row.row.stress and row.runs]
    maximum = attainable_maximum_nats(outcome.config.shape.context)
    found: dict[str, Any] = {}
    for kind in outcome.experiment.figures:
        match kind:
            case "perplexity":
                if bars := [(row.name, _finite(row)) for row in tuned if _finite(row)]:
                    found["perplexity"] = seed_perplexity_figure(bars)
            case "shares":
                if shares := [(row.name, _mean_shares(row, outcome)) for row in tuned if _healthy(row)]:
                    found["shares"] = head_share_figure([(name.replace(" (", "\n(", 1), share) for name, share in shares])
            case "heat maps":
                if panels := [(row.name, _healthy(row)[0].head_entropy_nats or []) for row in tuned if _healthy(row)]:
                    found["heat-maps"] = head_entropy_figure(panels, maximum)
            case "courses":
                if courses := [_course(row) for row in outcome.rows if row.runs and row.runs[0].course["steps"]]:
                    found["courses"] = layer_entropy_figure(courses)
            case "thresholds":
                if tables := [(f"seed {run.seed}", run.thresholds) for row in tuned for run in row.runs if run.thresholds]:
                    found["thresholds"] = head_entropy_figure(tables, 1.0, label="learned threshold\n(share of log T)")
            case "shares by tolerance":
                points = [(dict(row.row.changes)["entropy.tolerance"], [near_uniform_share(run) for run in row.runs]) for row in tuned]
                if points:
                    found["shares"] = top_share_figure(points)
            case _:
                assert_never(kind)
    return found


def _healthy(row: RowOutcome) -> list[RunRecord]:
    return [run for run in row.runs if run.head_entropy_nats]


def _finite(row: RowOutcome) -> list[float]:
    return [value for value in row.perplexity_by_seed if value is not None]


def _mean_shares(row: RowOutcome, outcome: Outcome) -> list[float]:
    shares = [summarise(run.head_entropy_nats or [], outcome.config.shape.context).share_per_range for run in _healthy(row)]
    return [sum(share[i] for share in shares) / len(shares) for i in range(4)]


def _course(row: RowOutcome) -> LayerCourse:
    run = row.runs[0]
    maximum = attainable_maximum_nats(run.settings["shape"]["context"])
    return LayerCourse(row.name, run.course["steps"], run.course["layer_entropy_nats"], maximum, run.stopped_at_step)
