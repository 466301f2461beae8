"""The contest for readers: a page of tables and pictures, drawn from a result file alone. Nothing is trained for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hushlm.experiments.contest.contest_figures import ContestPoint, StabilityMap, contest_figure, seconds_figure, stability_figure
from hushlm.experiments.contest.contest_rows import DISTILLED
from hushlm.experiments.contest.objective import OBJECTIVES, Cost
from hushlm.experiments.contest.roles import ONLINE_ROLES, ROLES
from hushlm.experiments.contest.seconds import PRICED, seconds_table, sizes_cell
from hushlm.experiments.documents import document_stem, read_document
from hushlm.experiments.published_figures import published_relative
from hushlm.experiments.scales import BASELINE, CONTEST_SCALES
from hushlm.files import write_atomic
from hushlm.report.figures import save_figure
from hushlm.report.table import Column, Table

__all__ = ["points_table", "read_contest", "write_contest_page"]

TARGETS = ((1.6, 1.00), (1.0, 1.10))
"""What the contest is for, as (GB of a private token at GPT-2 small's scale, perplexity over the baseline's)."""


POINT_COLUMNS = (
    Column("named", "name"),
    Column("role", "here"),
    Column("model", "model"),
    Column("origin", "found by"),
    Column("sizes", "L/H/D/F\nat GPT-2 small"),
    Column("gigabytes", "GB a\ntoken", ".2f", "right"),
    Column("rounds", "round\ntrips", ".0f", "right"),
    Column("perplexity", "test\nperplexity", align="right"),
    Column("relative", "to the\nbaseline", ".3f", "right"),
    Column("by_seed", "by seed", align="right"),
    Column("learning_rate", "learning\nrate", "g", "right"),
    Column("parameters", "million\nparameters", ".0f", "right"),
    Column("gflops", "GFLOP", ".1f", "right"),
)
"""The columns of a model that was tuned and measured; `_cells` fills them."""


def read_contest(path: Path) -> Mapping[str, Any]:
    """The document of a result file.

    Raises:
        ValueError: in one sentence, if it is not such a file.
    """
    return read_document(path, points_table, "does not hold a contest: give a file that `hushlm frontier run` wrote.")


def points_table(document: Mapping[str, Any]) -> Table:
    """The table of the baseline and the finalists, cheapest first."""
    base, seeds = document["base"], document["seeds"]
    over = f"mean over {seeds} seeds ± half the spread" if seeds > 1 else "one seed"
    tuned = any(len(point["learning_rate_sweep"]) > 1 for point in document["points"])
    chosen = "learning rate and names chosen on the validation split" if tuned else "the same learning rate for every row"
    roles = ONLINE_ROLES if CONTEST_SCALES[document["preset"]].objective == "online" else ROLES
    own_precision = any("training.precision" in point["changes"] for point in document["points"])
    unless = ", or as a row says, which then was trained at one learning rate" if own_precision else ""
    note = (
        f"Corpus {document['corpus']['name']}, {base['training']['steps']} steps of {base['training']['batch']} sequences for every row; "
        f"{over}, test split; {chosen}. Trained on {' and '.join(document.get('devices', ['cpu']))}, "
        f"{base['training']['precision']}{unless}. "
        "Bytes are the cost model's, at the shape that stands to GPT-2 small as the trained one to the baseline's. "
        f"Here: {'; '.join(f'{role} {meaning}' for role, meaning in roles.items())}."
    )
    return Table(f"The contest ({document['preset']})", POINT_COLUMNS, [_cells(point) for point in document["points"]], note)


def _cells(point: Mapping[str, Any]) -> dict[str, Any]:
    found = [value for value in point["perplexity_by_seed"] if value is not None]
    spread = f" ± {(max(found) - min(found)) / 2:.3f}" if len(found) > 1 else ""
    return {
        "named": point.get("name") or None,
        "role": point.get("role") or None,
        "model": _model(point),
        "origin": point["label"] or None,
        "sizes": sizes_cell(point["gpt2_small"]),
        "gigabytes": point["bytes_gpt2_small"] / 1e9,
        "rounds": point["rounds_gpt2_small"],
        "perplexity": f"{statistics.mean(found):.3f}{spread}" if found else "stopped",
        "relative": point["relative_to_baseline"],
        "by_seed": " / ".join("-" if value is None else f"{value:.3f}" for value in point["relative_by_seed"]),
        "learning_rate": point["learning_rate"],
        "parameters": point["parameters_gpt2_small"] / 1e6,
        "gflops": point["flops_gpt2_small"] / 1e9,
    }


def _model(point: Mapping[str, Any]) -> str:
    training = ", ".join(
        f"{name.split('.')[1]} {value:.3g}" if isinstance(value, float) else f"{name.split('.')[1]} {value}"
        for name, value in point["changes"].items()
        if not name.startswith("shape.")
    )
    return f"{point['architecture']} ({training})" if training else point["architecture"]


def write_contest_page(document: Mapping[str, Any], folder: Path) -> Path:
    """Write frontier-PRESET.md and its pictures into a folder.

    Returns: the Markdown's path.
    """
    stem = document_stem(document)
    folder.mkdir(parents=True, exist_ok=True)
    points = points_table(document)
    lines = [f"# {points.title}", "", f"Made by `{document['command']}`.", "", points.to_markdown(), points.note, ""]
    save_figure(_contest_picture(document), folder / f"{stem}.png")
    lines += [f"![perplexity against bytes]({stem}.png)", ""]
    if priced := [row for name in PRICED for row in document.get(name, ()) if "online_bytes" in row]:
        seconds = seconds_table(priced, [row["name"] or _baseline_name(row) or row["architecture"] for row in priced])
        save_figure(_seconds_picture(priced), folder / f"{stem}-seconds.png")
        lines += [f"## {seconds.title}", "", seconds.to_markdown(), seconds.note, ""]
        lines += [f"![perplexity against seconds]({stem}-seconds.png)", ""]
    if document["search"]["trials"]:
        lines += ["## The search", "", *_search(document["search"], OBJECTIVES[CONTEST_SCALES[document["preset"]].objective].costs), ""]
    for key, title, table in (
        ("ablation", "Each ingredient put back", _rows_table),
        ("grown", "What the small scale brought up, and wider models", _grown_table),
        ("regulariser", "Every kernel with and without EReg", _regulariser_table),
        ("distillation", "Learning from the baseline as well", _distillation_table),
    ):
        if document.get(key):
            lines += [f"## {title}", "", table(document[key]).to_markdown(), table(document[key]).note, ""]
    if document.get("stability"):
        save_figure(stability_figure(_stability(document["stability"])), folder / f"{stem}-stability.png")
        lines += [
            "## Learning rate against depth",
            "",
            "Validation perplexity after a short run, gradients not clipped, one seed, each with the optimiser named; x: stopped by the "
            "entropy watch or not finite; empty: not run.",
            "",
            f"![learning rate against depth]({stem}-stability.png)",
            "",
        ]
    path = folder / f"{stem}.md"
    write_atomic(path, "\n".join(lines))
    return path


def _search(search: Mapping[str, Any], costs: Sequence[Cost]) -> list[str]:
    headings = [cost.heading for cost in costs]
    return [
        f"{search['trials']} trials of {search['steps']} updates. The front, validation loss in nats against {' and '.join(headings)}:",
        "",
        f"| trial | {' | '.join(headings)} | nats | architecture | chosen |",
        f"|---:|{'---:|' * len(costs)}---:|---|---|",
        *(
            f"| {trial['number']} | {' | '.join(cost.shown(trial[cost.key]) for cost in costs)} | {trial['loss_nats']:.3f} | "
            f"{trial['architecture']} | "
            + ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in trial["parameters"].items()
                if name not in ("kernel", "feed_forward", "norm", "temperature", "regularised")
            )
            + " |"
            for trial in search["front"]
        ),
    ]


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("label", ""),
        Column("architecture", "architecture"),
        Column("gigabytes", "GB a token", ".2f", "right"),
        Column("perplexity", "test perplexity", align="right"),
        Column("relative", "to the first row", "+.1%", "right"),
        Column("shares", "heads (%) by entropy range", align="right"),
        Column("collapse", "collapse", align="right"),
    )
    first = rows[0]["perplexity_mean"]
    cells = [
        {
            **_cells(row),
            "label": row["label"],
            "architecture": row["architecture"],
            "relative": row["perplexity_mean"] / first - 1 if row["perplexity_mean"] and first else None,
            "shares": _shares(row),
            "collapse": f"{sum(map(bool, row['collapse_by_seed']))} of {len(row['collapse_by_seed'])}",
        }
        for row in rows
    ]
    seeds = len(rows[0]["perplexity_by_seed"])
    over = f"mean over {seeds} seeds ± half the spread" if seeds > 1 else "one seed"
    return Table("", columns, cells, f"The learning rate is the first row's; {over}, test split.")


def _grown_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = ("sizes", "gigabytes", "perplexity", "relative", "by_seed", "learning_rate")
    columns = (Column("architecture", "architecture"), *(column for column in POINT_COLUMNS if column.key in shown))
    cells = [{**_cells(row), "architecture": row["architecture"]} for row in rows]
    return Table("", columns, cells, "Tuned and measured like the finalists.")


def _regulariser_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("architecture", "architecture"),
        Column("without", "without EReg", align="right"),
        Column("with", "with EReg", align="right"),
        Column("by_seed", "change by seed", align="right"),
        Column("shares_without", "heads (%) without", align="right"),
        Column("shares_with", "with", align="right"),
        Column("thresholds", "thresholds with", align="right"),
        Column("verdict", "verdict"),
    )
    by_name = {row["architecture"]: row for row in rows}
    cells = []
    for name, plain in by_name.items():
        regularised = by_name.get(f"EReg({name})")
        if regularised is None:
            continue
        pairs = list(zip(plain["perplexity_by_seed"], regularised["perplexity_by_seed"], strict=False))
        changes = [b / a - 1 for a, b in pairs if a and b]
        found = [share for run in regularised["thresholds"] if run for layer in run for share in layer]
        better = [change < 0 for change in changes]
        cells.append(
            {
                "architecture": name,
                "without": _cells(plain)["perplexity"],
                "with": _cells(regularised)["perplexity"],
                "by_seed": " / ".join(f"{change:+.1%}" for change in changes),
                "shares_without": _shares(plain),
                "shares_with": _shares(regularised),
                "thresholds": f"{min(found):.2f} to {max(found):.2f}" if found else None,
                "verdict": "helps on every seed" if all(better) else "hurts on every seed" if not any(better) else "no clear effect",
            }
        )
    return Table("", columns, cells, "At one shape and one learning rate; thresholds as shares of log T.")


def _distillation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("name", "model"),
        Column("gigabytes", "GB a token", ".2f", "right"),
        Column("alone", "to the baseline, from the text alone", ".3f", "right"),
        Column("distilled", "distilled", ".3f", "right"),
        Column("by_seed", "distilled, by seed", align="right"),
    )
    alone = {row["label"]: row for row in rows}
    cells = [
        {
            "name": name,
            "gigabytes": row["bytes_gpt2_small"] / 1e9,
            "alone": row["relative_to_baseline"],
            "distilled": taught["relative_to_baseline"],
            "by_seed": _cells(taught)["by_seed"],
        }
        for name, row in alone.items()
        if (taught := alone.get(name + DISTILLED)) is not None
    ]
    return Table(
        "",
        columns,
        cells,
        "Test perplexity over the best baseline's. The teacher is that baseline's run of seed 0; the same tokens, half of the loss from "
        "its distribution.",
    )


def _shares(row: Mapping[str, Any]) -> str | None:
    found = [shares for shares in row["head_share_by_seed"] if shares]
    return "/".join(f"{100 * statistics.mean(shares[i] for shares in found):.0f}" for i in range(4)) if found else None


def _stability(rows: Sequence[Mapping[str, Any]]) -> list[StabilityMap]:
    found: dict[str, dict[tuple[int, float], float]] = {}
    for row in rows:
        name = f"{row['architecture']}, {row['changes'].get('training.optimiser', 'adamw')}"
        perplexity = row["validation_perplexity_by_seed"][0]
        found.setdefault(name, {})[row["shape"]["layers"], row["learning_rate"]] = math.nan if perplexity is None else perplexity
    # The same axes for all, whatever was run of each.
    layers = sorted({depth for own in found.values() for depth, _ in own})
    rates = sorted({rate for own in found.values() for _, rate in own})
    return [
        StabilityMap(name, layers, rates, [[own.get((depth, rate), math.inf) for rate in rates] for depth in layers])
        for name, own in found.items()
    ]


def _contest_picture(document: Mapping[str, Any]) -> Any:
    ours = [
        ContestPoint(
            point["name"] or point.get("role") or _baseline_name(point),
            point["bytes_gpt2_small"] / 1e9,
            [value for value in point["relative_by_seed"] if value is not None],
        )
        for point in (*document["points"], *document.get("grown", ()))
        if any(point["relative_by_seed"])
    ]
    # AERO's rows lie beside the paper's: without a name of their own.
    beside = ("removed", "SM+ScFFN")
    published = [
        ContestPoint("" if any(text in name for text in beside) else name, gigabytes, [relative])
        for name, gigabytes, relative in published_relative()
    ]
    return contest_figure(ours, published, TARGETS, f"test perplexity over {BASELINE}'s")


def _seconds_picture(rows: Sequence[Mapping[str, Any]]) -> Any:
    seen = [row for row in rows if any(row["relative_by_seed"])]
    ways = {
        "not prepared, LAN": "today_seconds_lan",
        "prepared, WAN": "online_seconds_wan",
        "prepared, LAN": "online_seconds_lan",
    }
    return seconds_figure(
        [row["name"] or _baseline_name(row) for row in seen],
        [row["relative_to_baseline"] for row in seen],
        {way: [row[key] for row in seen] for way, key in ways.items()},
        f"test perplexity over {BASELINE}'s",
    )


def _baseline_name(point: Mapping[str, Any]) -> str:
    """The name of the baseline with its optimiser; "" for other models, and for the baseline with more changes than another optimiser."""
    if point["architecture"] != BASELINE or len(point["changes"]) > 1:
        return ""
    return f"{BASELINE}, {point['changes'].get('training.optimiser', 'adamw')}"
