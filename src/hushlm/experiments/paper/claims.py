"""The paper's claims held against what was measured, with the numbers: reproduced, contradicted, or not reproduced at this scale.

A comparison is reproduced when every seed shows it, contradicted when every seed shows the opposite, and not reproduced otherwise.
An ordering is judged by Spearman's rank correlation between published and measured perplexities. A claim whose rows were not
all run is not judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hushlm.entropy.diagnostics import HeadReport, summarise
from hushlm.experiments.experiment import ONE_RATE
from hushlm.experiments.paper.tables import CLIPPED, EREG, GAMMAS, STRESS, gamma_label
from hushlm.experiments.published_figures import published_figures
from hushlm.experiments.runs import RunRecord
from hushlm.experiments.study import Outcome, RowOutcome

__all__ = ["Claim", "Verdict", "judge", "near_uniform_share", "rank_correlation"]

Verdict = Literal["reproduced", "not reproduced at this scale", "contradicted", "not run"]

STRONG_CORRELATION = 0.8
"""The rank correlation from which on an ordering counts as reproduced; below 0 it is contradicted."""

SPREAD_OF_THRESHOLDS = 0.1
"""Largest minus smallest learned threshold, as shares of log T, above which they count as non-uniform. Published: 0.20 to 0.52."""


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it.

    Attributes:
        text: what the paper says, or what we say of our own rows.
        verdict: what became of it, by the rules of this module.
        evidence: the numbers in a sentence.
        ours: whether the claim is ours and not the paper's.
    """

    text: str
    verdict: Verdict
    evidence: str
    ours: bool = False


def judge(outcome: Outcome) -> list[Claim]:
    """The claims that an experiment bears on."""
    return [claim for make in _CLAIMS.get(outcome.experiment.name, ()) if (claim := make(outcome)) is not None]


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks, with ties at their mean rank. NaN where one side is constant."""
    first, second = (
        np.array([(np.sum(np.less(side, x)) + np.sum(np.less_equal(side, x)) - 1) / 2 for x in side]) for side in (left, right)
    )
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _ordering(outcome: Outcome) -> Claim:
    text = "the order of the published perplexities"
    published = published_figures(outcome.experiment.published, outcome.config.shape.layers)
    pairs: list[tuple[str, float, float]] = []
    for name, figures in published.items():
        row = outcome.find(name)
        if row is None or figures.perplexity is None:
            continue
        # A training that diverged comes last.
        theirs = np.inf if np.isnan(figures.perplexity) else figures.perplexity
        pairs.append((name, theirs, np.inf if row.mean_perplexity is None else row.mean_perplexity))
    if len(pairs) < 3:
        return Claim(text, "not run", "Fewer than three of the published rows were run.")
    correlation = rank_correlation([pair[1] for pair in pairs], [pair[2] for pair in pairs])
    order = " < ".join(f"{name} {_shown(ours)}" for name, _, ours in sorted(pairs, key=lambda pair: pair[2]))
    return Claim(text, _by_correlation(correlation), f"Rank correlation {correlation:.2f} over {len(pairs)} rows; measured: {order}.")


def _lower(left: str, right: str, text: str, ours: bool = False, label: str = "") -> Callable[[Outcome], Claim | None]:
    """The claim that `left` reaches a lower perplexity than `right`, seed by seed; none where no row has the label."""

    def claim(outcome: Outcome) -> Claim | None:
        if not any(row.row.label == label for row in outcome.rows):
            return None
        rows = _all_of(outcome.find(name, label) for name in (left, right))
        if not rows:
            return Claim(text, "not run", f"{left} and {right} were not both run.", ours)
        pairs = _pairs(*rows)
        changes = [100 * (a / b - 1) if np.isfinite(a) and np.isfinite(b) else None for a, b in pairs]
        shown = ", ".join(
            f"{_shown(a)} against {_shown(b)}" + (f" ({c:+.1f}%)" if c is not None else "")
            for (a, b), c in zip(pairs, changes, strict=True)
        )
        return Claim(text, _all_lower(pairs), f"By seed: {shown}.", ours)

    return claim


def _diverges(outcome: Outcome) -> Claim:
    text = "the softmax-only model diverges, the baseline does not"
    model, baseline, clipped = outcome.find("SM", STRESS), outcome.find("SM+LN+G", STRESS), outcome.find("SM", CLIPPED)
    if model is None or baseline is None:
        return Claim(text, "not run", "The divergence setting was not run.")
    wild, tame = model.runs[0], baseline.runs[0]
    verdict: Verdict = (
        "reproduced"
        if wild.stopped_at_step is not None and tame.stopped_at_step is None
        else "contradicted"
        if wild.stopped_at_step is None and tame.stopped_at_step is not None
        else "not reproduced at this scale"
    )
    evidence = f"SM {_ending(wild)}; SM+LN+G {_ending(tame)}"
    if clipped is not None:
        evidence += f"; SM with clipped gradients {_ending(clipped.runs[0])}"
    plain = outcome.find("SM")
    if plain is not None:
        ended = sum(run.stopped_at_step is None for run in plain.runs)
        evidence += f"; at the rows' own depth and tuned learning rate SM ended well with {ended} of {len(plain.runs)} seeds"
    return Claim(text, verdict, evidence + ".")


def _stabilised(outcome: Outcome) -> Claim:
    text = "static normalisation and learnable scaling stabilise the softmax-only model"
    names = ("SM+WNorm(FFN)", "SM+SNorm(FFN)", "SM+ScFFN")
    rows = _all_of(outcome.find(name, STRESS) for name in ("SM", *names))
    if not rows:
        return Claim(text, "not run", "The divergence setting was not run.")
    runs = [row.runs[0] for row in rows]
    stable = [run.stopped_at_step is None for run in runs]
    verdict: Verdict = (
        "reproduced" if not stable[0] and all(stable[1:]) else "contradicted" if not any(stable[1:]) else "not reproduced at this scale"
    )
    return Claim(text, verdict, "; ".join(f"{run.architecture} {_ending(run)}" for run in runs) + ".")


def _overload(outcome: Outcome) -> Claim:
    text = "overload in early layers: SM+G and SM put more of their early heads in the top range than SM+LN+G"
    rows = _all_of(outcome.find(name) for name in ("SM+LN+G", "SM+G", "SM"))
    if not rows:
        return Claim(text, "not run", "SM+LN+G, SM+G and SM were not all run.")
    shares = [[_early_top_share(run) for run in row.runs] for row in rows]
    return Claim(
        text,
        _verdict(
            [min(g, s) > base for base, g, s in zip(*shares, strict=True)], [max(g, s) < base for base, g, s in zip(*shares, strict=True)]
        ),
        "Share of early heads in [3m/4, m] by seed: "
        + "; ".join(
            f"{name} {', '.join(f'{100 * share:.0f}%' for share in found)}"
            for name, found in zip(("SM+LN+G", "SM+G", "SM"), shares, strict=True)
        )
        + ".",
    )


def _collapse(outcome: Outcome) -> Claim:
    text = "collapse in deep layers of SM before it diverges"
    row = outcome.find("SM", STRESS)
    if row is None:
        return Claim(text, "not run", "The divergence setting was not run.")
    run = row.runs[0]
    layers = run.settings["shape"]["layers"]
    deep = [layer for layer in run.collapsed_layers if layer >= layers // 2]
    verdict: Verdict = "reproduced" if len(deep) * 2 > layers // 2 else "not reproduced at this scale"
    return Claim(text, verdict, f"SM {_ending(run)}.")


def _fewer_overloaded(outcome: Outcome) -> Claim:
    text = "EReg leaves fewer heads near the greatest attainable entropy than SM+ScFuFFN"
    rows = _all_of(outcome.find(name) for name in (EREG, "SM+ScFuFFN"))
    if not rows:
        return Claim(text, "not run", "The rows were not both run.")
    pairs = list(zip(*([near_uniform_share(run) for run in row.runs] for row in rows), strict=True))
    shown = ", ".join(f"{100 * a:.0f}% against {100 * b:.0f}%" for a, b in pairs)
    return Claim(text, _all_lower(pairs), f"Heads at three quarters of it or above, by seed: {shown}.")


def _placement(outcome: Outcome) -> Claim:
    text = "normalising the FFN's weights does better than normalising attention's (QK)"
    rows = _all_of(outcome.find(f"SM+{norm}({layers})") for norm in ("WNorm", "SNorm") for layers in ("FFN", "QK"))
    if not rows:
        return Claim(text, "not run", "The rows were not all run.")
    pairs = [pair for left, right in (rows[:2], rows[2:]) for pair in _pairs(left, right)]
    shown = ", ".join(f"{_shown(a)} against {_shown(b)}" for a, b in pairs)
    return Claim(text, _all_lower(pairs), f"WNorm, then SNorm, by seed: {shown}.")


def _thresholds(outcome: Outcome) -> Claim:
    text = "learned thresholds become non-uniform over heads"
    row = outcome.find(EREG)
    if row is None:
        return Claim(text, "not run", "EReg was not run.")
    tables = [np.array(run.thresholds) for run in row.runs if run.thresholds]
    spreads = [float(np.ptp(table)) for table in tables]
    shown = "; ".join(f"{table.min():.2f} to {table.max():.2f}, mean {table.mean():.2f}" for table in tables)
    return Claim(
        text, _verdict([s >= SPREAD_OF_THRESHOLDS for s in spreads], [s == 0 for s in spreads]), f"As shares of log T, by seed: {shown}."
    )


def _gamma(outcome: Outcome) -> Claim:
    text = "a wider tolerance leaves more heads in the top range"
    rows = _all_of(outcome.find(EREG, gamma_label(gamma)) for gamma in GAMMAS)
    if not rows:
        return Claim(text, "not run", "Not every tolerance was run.")
    shares = [statistics.mean(near_uniform_share(run) for run in row.runs) for row in rows]
    correlation = rank_correlation(GAMMAS, shares)
    shown = ", ".join(f"{100 * share:.1f}% at {gamma:g}" for gamma, share in zip(GAMMAS, shares, strict=True))
    evidence = f"Heads at three quarters of the attainable entropy or above, mean over seeds: {shown}; rank correlation {correlation:.2f}."
    return Claim(text, _by_correlation(correlation), evidence)


def _report(run: RunRecord) -> HeadReport | None:
    return summarise(run.head_entropy_nats, run.settings["shape"]["context"]) if run.head_entropy_nats else None


def _early_top_share(run: RunRecord) -> float:
    """The share of heads in the early half of the layers whose entropy is in [3m/4, m], where m is the largest; 0 for a stopped run."""
    report = _report(run)
    if report is None:
        return 0.0
    entropies = np.array(report.head_entropy_nats_LH)
    return float(np.mean(entropies[: (len(entropies) + 1) // 2] >= 0.75 * report.maximum_nats))


def near_uniform_share(run: RunRecord) -> float:
    """The share of heads at three quarters of the attainable maximum or above; 0 for a stopped run.

    Unlike the largest entropy observed, that line is the same for all runs.
    """
    report = _report(run)
    return float(np.mean(np.array(report.head_entropy_nats_LH) >= 0.75 * report.attainable_maximum_nats)) if report else 0.0


def _all_lower(pairs: Sequence[tuple[float, float]]) -> Verdict:
    """The verdict on the claim that the first of each pair is below the second."""
    return _verdict([a < b for a, b in pairs], [a > b for a, b in pairs])


def _by_correlation(correlation: float) -> Verdict:
    if correlation >= STRONG_CORRELATION:
        return "reproduced"
    return "contradicted" if correlation < 0 else "not reproduced at this scale"


def _verdict(for_it: Sequence[bool], against_it: Sequence[bool]) -> Verdict:
    if for_it and all(for_it):
        return "reproduced"
    return "contradicted" if against_it and all(against_it) else "not reproduced at this scale"


def _ending(run: RunRecord) -> str:
    if run.stopped_at_step is None:
        return f"ran all {run.settings['training']['steps']} steps"
    layers = f", layers {', '.join(map(str, run.collapsed_layers))} at zero entropy" if run.collapsed_layers else ""
    return f"was stopped before update {run.stopped_at_step}{layers}"


def _all_of(rows: Iterable[RowOutcome | None]) -> list[RowOutcome]:
    """The rows if all are there, otherwise none."""
    found = list(rows)
    return [] if None in found else [row for row in found if row is not None]


def _pairs(left: RowOutcome, right: RowOutcome) -> list[tuple[float, float]]:
    """The perplexities of two rows seed by seed, infinite where training was stopped."""
    either = zip(left.perplexity_by_seed, right.perplexity_by_seed, strict=True)
    return [(np.inf if a is None else a, np.inf if b is None else b) for a, b in either]


def _shown(perplexity: float) -> str:
    return f"{perplexity:.2f}" if np.isfinite(perplexity) else "diverged"


_EREG_GAINS = {
    "SM+ScFuFFN": "EReg lowers the perplexity of SM+ScFuFFN (7.8% in the paper)",
    "SM(t)+ScFuFFN": "EReg lowers the perplexity of SM(t)+ScFuFFN: the regulariser's own share",
}
_EREG_CLAIMS = (
    _ordering,
    *(_lower(EREG, name, text) for name, text in _EREG_GAINS.items()),
    _fewer_overloaded,
)
_CLAIMS: dict[str, Sequence[Callable[[Outcome], Claim | None]]] = {
    "table2": (
        _ordering,
        _diverges,
        _lower("SM+R", "SM+G", "without LayerNorm, ReLU does better than GELU"),
        _lower("SM2+R", "SM+LN+G", "SM2+R is below SM+LN+G", ours=True),
        _lower("SM2+R", "SM+R", "SM2+R is below SM+R", ours=True),
    ),
    "table3": (
        *_EREG_CLAIMS,
        *(_lower(EREG, name, f"{text}, at one learning rate for all", label=ONE_RATE) for name, text in _EREG_GAINS.items()),
        _lower("EReg(SM2+ScFuFFN)", "SM2+ScFuFFN", "EReg lowers the perplexity of SM2+ScFuFFN", ours=True),
        _lower("SM2+R", EREG, "SM2+R is below the paper's final system", ours=True),
    ),
    "table4": _EREG_CLAIMS,
    "table5": (_ordering, _placement),
    "table6": (
        _ordering,
        _stabilised,
        _lower("SM+ScFFN", "SM+WNorm(FFN)", "learnable scaling does better than weight normalisation"),
        _lower("SM+ScFFN", "SM+SNorm(FFN)", "learnable scaling does better than spectral normalisation"),
    ),
    "table7": _EREG_CLAIMS,
    "table8": _EREG_CLAIMS,
    "fig2": (_overload, _collapse),
    "fig6": (_thresholds,),
    "fig7": (_gamma,),
    "pythia": (
        _lower("EReg(NeoX(SM(t)+ScFuFFN))", "NeoX(SM+ScFuFFN)", "EReg lowers the perplexity of SM+ScFuFFN in GPT-NeoX blocks"),
        _lower("NeoX(SM2+R)", "NeoX(SM+LN+G)", "SM2+R is below SM+LN+G in GPT-NeoX blocks", ours=True),
    ),
    "aero4": (
        _ordering,
        _lower("SM+ScFuFFN", "SM+ScFFN", "the fused FFN does better than the unfused one (3.48 against 3.50)"),
    ),
}
"""The claims that each experiment bears on, by its name."""
