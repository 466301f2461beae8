"""What each table and figure of the paper is made of: which rows are trained, at which sizes, and which figures show them.

Rows that two experiments share are one run: a run is known by its settings (`runs.run_key`), not by who asked for it.
"""

from __future__ import annotations

from hushlm.experiments.experiment import Experiment, Row

__all__ = ["CLIPPED", "EREG", "EXPERIMENTS", "GAMMAS", "STRESS", "gamma_label"]

EREG = "EReg(SM(t)+ScFuFFN)"
"""The paper's final system: the entropy regulariser, softmax with learned temperatures, and a scaled, fused feed-forward network (FFN)."""

STRESS = "divergence setting"
CLIPPED = "divergence setting, gradients clipped"
"""Labels of the rows at a scale's divergence setting."""

GAMMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""The tolerances of the regulariser that are tried, as shares of log T."""


def gamma_label(gamma: float) -> str:
    """The label of the row with a tolerance."""
    return f"gamma {gamma:g}"


def _plain(*architectures: str) -> tuple[Row, ...]:
    return tuple(Row(name) for name in architectures)


def _stress(*architectures: str) -> tuple[Row, ...]:
    return tuple(Row(name, label=STRESS, stress=True) for name in architectures)


_OURS = _plain("SM2+R", "SM2+ScFuFFN", "EReg(SM2+ScFuFFN)")
_TABLE2 = _plain("SM+LN+G", "SM+LN+R", "SM+LN", "SM+G", "SM+R", "SM")
_FINAL = _plain("SM+LN+G", "SM+LN+R", "SM+ScFuFFN", "SM(t)+ScFuFFN", EREG)
_PLACEMENTS = ("QK", "FFN", "QK+FFN", "QKV+FFN", "QKVO+FFN")
_PRUNED = "ScFuFFN({half} deepest FFNs removed)"
_CLIPPED = Row("SM", (("training.clip_norm", 1.0),), CLIPPED, stress=True)
_GAMMA_ROWS = tuple(Row(EREG, (("entropy.tolerance", gamma),), gamma_label(gamma)) for gamma in GAMMAS)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "table2",
            "Removing nonlinearities",
            (*_TABLE2, *_OURS, *_stress("SM", "SM+G", "SM+R", "SM+LN+G", "SM2+R"), _CLIPPED),
            ("perplexity",),
            published="table2",
        ),
        Experiment(
            "table3",
            "Entropy regularisation, base context and depth",
            # LNf: the authors' code kept a LayerNorm before the head.
            (*_FINAL, *_plain("SM+LNf+ScFuFFN"), *_OURS),
            ("perplexity", "shares"),
            one_rate_too=tuple(row.architecture for row in _FINAL),
            published="3",
        ),
        Experiment("table4", "Entropy regularisation on books", _FINAL, ("perplexity",), context_factor=4, corpus="books", published="4"),
        Experiment(
            "table5",
            "Where static normalisation is put",
            (Row("SM+LN+G"), *_plain(*(f"SM+{norm}({layers})" for norm in ("WNorm", "SNorm") for layers in _PLACEMENTS))),
            ("perplexity",),
            published="normalisation",
        ),
        Experiment(
            "table6",
            "Static normalisation against learnable scaling in the FFN",
            (
                *_plain("SM+LN+G", "SM+WNorm(FFN)", "SM+SNorm(FFN)", "SM+ScFFN"),
                *_stress("SM", "SM+WNorm(FFN)", "SM+SNorm(FFN)", "SM+ScFFN"),
            ),
            ("perplexity",),
            published="normalisation",
        ),
        Experiment("table7", "Twice the context", _FINAL, ("perplexity",), context_factor=2, published="7"),
        Experiment("table8", "Half as many layers again", _FINAL, ("perplexity",), depth_factor=1.5, published="8"),
        Experiment("fig2", "Heads by entropy range", (*_TABLE2, *_stress("SM", "SM+LN+G")), ("shares",), published="shares"),
        Experiment("fig3", "Entropy of every head", _TABLE2, ("heat maps",)),
        Experiment(
            "fig5",
            "Layer-wise entropy in training",
            (*_plain("SM+LN+G", "SM+ScFuFFN", EREG), *_stress("SM", "SM+G")),
            ("courses",),
        ),
        Experiment("fig6", "Learned thresholds", _plain(EREG), ("thresholds",)),
        Experiment("fig7", "The tolerance and the heads of the top range", _GAMMA_ROWS, ("shares by tolerance",)),
        Experiment("fig8", "The tolerance and the layers' entropy", _GAMMA_ROWS, ("courses",)),
        Experiment(
            "aero4",
            "Fused and pruned FFNs",
            _plain("SM+LN+G", "SM+ScFFN", "SM+ScFuFFN", f"SM+{_PRUNED}", EREG, f"EReg(SM(t)+{_PRUNED})"),
            ("perplexity",),
            published="aero4",
        ),
        Experiment(
            "pythia",
            "GPT-NeoX blocks",
            _plain("NeoX(SM+LN+G)", "NeoX(SM+LN+R)", "NeoX(SM+ScFuFFN)", "NeoX(SM(t)+ScFuFFN)", "EReg(NeoX(SM(t)+ScFuFFN))", "NeoX(SM2+R)"),
            ("perplexity", "shares"),
        ),
    )
}
"""Every experiment by its name on the command line."""
