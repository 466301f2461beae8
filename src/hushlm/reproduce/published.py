"""The published figures that stand beside an experiment's rows (published/SOURCE.md says where each comes from)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["PublishedFigures", "published_figures", "published_relative"]

_PRUNED = "6 deepest FFNs removed"
_TABLES = {"aero4": ("3", "aero4")}
"""AERO's pruned rows stand beside the unpruned ones of Table 3, at the same sizes."""


@dataclass(frozen=True)
class PublishedFigures:
    """Of one row.

    Attributes:
        perplexity: None where none is printed; NaN where training diverged.
        shares: of the heads in the bottom and the top quarter, as fractions, where printed.
    """

    perplexity: float | None = None
    shares: tuple[float | None, float | None] = (None, None)


def published_figures(kind: str, layers: int) -> dict[str, PublishedFigures]:
    """By architecture, written for a model of `layers` layers: the published rows that remove half of 12 FFNs stand beside half of ours.

    Args:
        kind: `Experiment.published`.
        layers: of our model.
    """
    if not kind:
        return {}
    if kind == "table2":
        return {row["architecture"]: PublishedFigures(float(row["eval_ppl"])) for row in _read("table2_nonlinearity_ppl.csv")}
    if kind == "normalisation":
        return _normalisation()
    if kind == "shares":
        return _shares()
    # Languini's cells hold three budgets of tokens: the first, smallest, is the nearest to ours.
    return {
        row["architecture"].replace(_PRUNED, f"{layers // 2} deepest FFNs removed"): PublishedFigures(float(row["eval_ppl"].split("/")[0]))
        for row in _read("pi_cost.csv")
        if row["table"] in _TABLES.get(kind, (kind,))
    }


def _normalisation() -> dict[str, PublishedFigures]:
    found = {}
    for row in _read("table5_table6_normalisation_ppl.csv"):
        found[f"SM+WNorm({row['linear_layers']})"] = PublishedFigures(float(row["weight_norm_ppl"]))
        found[f"SM+SNorm({row['linear_layers']})"] = PublishedFigures(float(row["spectral_norm_ppl"]))
        if row["learnable_scaling_ppl"]:
            found["SM+ScFFN"] = PublishedFigures(float(row["learnable_scaling_ppl"]))
    return found


def _shares() -> dict[str, PublishedFigures]:
    shares: dict[str, list[float | None]] = {}
    for row in _read("fig2a_head_entropy_share_percent.csv"):
        bottom_top = shares.setdefault(row["architecture"], [None, None])
        bottom_top[0 if row["range"].startswith("[0") else 1] = float(row["share_percent"]) / 100
    return {name: PublishedFigures(shares=(bottom, top)) for name, (bottom, top) in shares.items()}


def _read(name: str) -> list[dict[str, str]]:
    text = (files("hushlm") / "reproduce" / "published" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def published_relative() -> list[tuple[str, float, float]]:
    """GPT-2 small at T=128 as published: (architecture, GB of a private token, perplexity over SM+LN+G's of the same table)."""
    rows = [row for row in _read("pi_cost.csv") if (row["table"], row["dataset"]) in (("3", "codeparrot"), ("aero4", "codeparrot"))]
    baseline = next(float(row["eval_ppl"]) for row in rows if row["architecture"] == "SM+LN+G")
    return [(row["architecture"], float(row["comm_gb"]), float(row["eval_ppl"]) / baseline) for row in rows]
