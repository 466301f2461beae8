"""The published figures that stand beside our own rows (published/SOURCE.md says where each comes from)."""

from __future__ import annotations

from dataclasses import dataclass

from hushlm.published import read_published

__all__ = ["PublishedFigures", "published_figures", "published_relative"]

_PRUNED = "6 deepest FFNs removed"
_TABLES = {"aero4": ("3", "aero4")}
"""AERO's pruned rows stand beside the unpruned ones of Table 3, which have the same sizes."""


@dataclass(frozen=True)
class PublishedFigures:
    """What is published of one row.

    Attributes:
        perplexity: as printed; None where none is printed, NaN where training diverged.
        shares: the shares of heads in the bottom and in the top quarter of the entropy range, as fractions; None where not printed.
    """

    perplexity: float | None = None
    shares: tuple[float | None, float | None] = (None, None)


def published_figures(kind: str, layers: int) -> dict[str, PublishedFigures]:
    """The published figures by architecture, its name written for a model of another depth.

    Args:
        kind: which published rows, as `Experiment.published` names them; "" for none.
        layers: the depth of our model. Published rows that remove half of 12 FFNs stand beside rows that remove half of ours.
    """
    if not kind:
        return {}
    if kind == "table2":
        return {row["architecture"]: PublishedFigures(float(row["eval_ppl"])) for row in read_published("table2_nonlinearity_ppl.csv")}
    if kind == "normalisation":
        return _normalisation()
    if kind == "shares":
        return _shares()
    # Cells for the Languini corpus hold perplexities at three budgets of tokens: the first, smallest one is the nearest to ours.
    return {
        row["architecture"].replace(_PRUNED, f"{layers // 2} deepest FFNs removed"): PublishedFigures(float(row["eval_ppl"].split("/")[0]))
        for row in read_published("pi_cost.csv")
        if row["table"] in _TABLES.get(kind, (kind,))
    }


def published_relative() -> list[tuple[str, float, float]]:
    """GPT-2 small at T=128 as published: (architecture, GB of a private token, perplexity over SM+LN+G's in the same table)."""
    rows = [
        row for row in read_published("pi_cost.csv") if (row["table"], row["dataset"]) in (("3", "codeparrot"), ("aero4", "codeparrot"))
    ]
    baseline = next(float(row["eval_ppl"]) for row in rows if row["architecture"] == "SM+LN+G")
    return [(row["architecture"], float(row["comm_gb"]), float(row["eval_ppl"]) / baseline) for row in rows]


def _normalisation() -> dict[str, PublishedFigures]:
    found = {}
    for row in read_published("table5_table6_normalisation_ppl.csv"):
        found[f"SM+WNorm({row['linear_layers']})"] = PublishedFigures(float(row["weight_norm_ppl"]))
        found[f"SM+SNorm({row['linear_layers']})"] = PublishedFigures(float(row["spectral_norm_ppl"]))
        if row["learnable_scaling_ppl"]:
            found["SM+ScFFN"] = PublishedFigures(float(row["learnable_scaling_ppl"]))
    return found


def _shares() -> dict[str, PublishedFigures]:
    shares: dict[str, list[float | None]] = {}
    for row in read_published("fig2a_head_entropy_share_percent.csv"):
        bottom_top = shares.setdefault(row["architecture"], [None, None])
        bottom_top[0 if row["range"].startswith("[0") else 1] = float(row["share_percent"]) / 100
    return {name: PublishedFigures(shares=(bottom, top)) for name, (bottom, top) in shares.items()}
