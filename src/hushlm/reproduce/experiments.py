"""What each table and figure of the paper is made of: which rows are trained, at which sizes, and which figure shows them.

Rows that two experiments share are one run: a run is known by its settings (`runs.run_key`), not by who asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from hushlm.config import RunConfig

__all__ = ["EXPERIMENTS", "Experiment", "FigureKind", "Row"]

FigureKind = Literal["perplexity", "shares", "heat maps", "courses", "thresholds", "gamma shares", "gamma courses"]

EREG = "EReg(SM(t)+ScFuFFN)"


@dataclass(frozen=True)
class Row:
    """One row of a table, or one panel of a figure.

    Attributes:
        architecture: a name; `{half}` in it stands for half of the layers.
        changes: settings that differ from the preset's, as (dotted name, value).
        label: says so, "" for a plain row.
        stress: run at the preset's divergence setting (deep, fast, unclipped unless changed) instead of being tuned; such a row has an
            outcome and no perplexity.
        retuned: its changes make it another model: its learning rate is swept with them, not taken over from the row without.
        rate: learning rate, where it is given and not swept.
        seeds: instead of the study's.
    """

    architecture: str
    changes: tuple[tuple[str, Any], ...] = ()
    label: str = ""
    stress: bool = False
    retuned: bool = False
    rate: float | None = None
    seeds: int | None = None

    def name(self, layers: int) -> str:
        """The architecture at a depth."""
        return self.architecture.replace("{half}", str(layers // 2))


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Attributes:
        name: as on the command line.
        title: what it shows.
        rows: in the order shown; the first is the baseline that deltas refer to.
        figures: kinds of pictures drawn.
        depth_factor, context_factor: sizes over the preset's.
        corpus: instead of the preset's.
        published: which published rows stand beside ("table2", "normalisation", "shares", or a `table` of pi_cost.csv).
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    figures: tuple[FigureKind, ...] = ()
    depth_factor: float = 1.0
    context_factor: int = 1
    corpus: str | None = None
    published: str = ""

    def sized(self, base: RunConfig) -> RunConfig:
        """The preset's run at this experiment's sizes. The batch shrinks as the context grows: equal tokens a step."""
        shape = replace(base.shape, layers=round(base.shape.layers * self.depth_factor), context=base.shape.context * self.context_factor)
        training = replace(base.training, batch=max(1, base.training.batch // self.context_factor))
        data = replace(base.data, corpus=self.corpus) if self.corpus else base.data
        return replace(base, shape=shape, training=training, data=data)


def _plain(*architectures: str) -> tuple[Row, ...]:
    return tuple(Row(name) for name in architectures)


def _stress(*architectures: str) -> tuple[Row, ...]:
    return tuple(Row(name, label="divergence setting", stress=True) for name in architectures)


_OURS = _plain("SM2+R", "SM2+ScFuFFN", "EReg(SM2+ScFuFFN)")
_TABLE2 = _plain("SM+LN+G", "SM+LN+R", "SM+LN", "SM+G", "SM+R", "SM")
_FINAL = _plain("SM+LN+G", "SM+LN+R", "SM+ScFuFFN", "SM(t)+ScFuFFN", EREG)
_PLACEMENTS = ("QK", "FFN", "QK+FFN", "QKV+FFN", "QKVO+FFN")
_PRUNED = "ScFuFFN({half} deepest FFNs removed)"
_CLIPPED = Row("SM", (("training.clip_norm", 1.0),), "divergence setting, gradients clipped", stress=True)
GAMMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
_GAMMA_ROWS = tuple(Row(EREG, (("entropy.tolerance", gamma),), f"gamma {gamma:g}") for gamma in GAMMAS)

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
        Experiment("fig7", "The tolerance and the heads of the top range", _GAMMA_ROWS, ("gamma shares",)),
        Experiment("fig8", "The tolerance and the layers' entropy", _GAMMA_ROWS, ("gamma courses",)),
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
"""By name."""
