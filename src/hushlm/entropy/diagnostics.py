"""What the entropies of a model's heads say: their spread over four ranges, overload in early layers, collapse in deep ones.

Source of the notions: arXiv 2501.03489, Fig. 2a. It gives shares of heads per range, and speaks of entropic overload where the top
range of early layers is overfull (SM+G 58% of all heads, SM 45%, SM+R 23%) and of entropy collapse where deep layers fall near
zero (SM: 33% of heads in the bottom range). It draws no line, so the lines drawn here are constants with their reasons.

Legend: L layers, H heads, T context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "DISPROPORTIONATE_SHARE",
    "NEAR_UNIFORM_SHARE",
    "NEAR_ZERO_SHARE",
    "SILENT_SHARE",
    "HeadReport",
    "attainable_maximum_nats",
    "overload_and_collapse_shares",
    "silent_layers",
    "summarise",
]

DISPROPORTIONATE_SHARE = 0.25
"""Above this share of heads a range is overfull: four ranges would hold a quarter each. The paper's models with LayerNorm keep about 90%
of their heads in the two middle ranges, so about 5% at either end; its mildest overload, SM+R's 23% of all heads, exceeds a quarter
of the early half's heads once those heads are mostly early ones."""

NEAR_UNIFORM_SHARE = 0.9
"""A head counts towards overload only from this share of the attainable maximum on. The ranges are relative to the largest entropy
observed, so without an absolute line the most diffuse heads of any model, however focused, would fill the top range."""

NEAR_ZERO_SHARE = 0.05
"""A head counts as collapsed below this share of log T (0.24 nats at T = 128: one key with about 95% of the weight). The bottom range
alone would not do: heads of well-trained regularised models lie there too, and learn."""

SILENT_SHARE = 0.01
"""A layer is silent when each of its heads is below this share of log T. In diverging runs of SM at 12 layers the layer means, as shares of
log T, end 0.79, 0.79, 0.76, 0.16, 0.05, 0, ... 0 just before the loss becomes NaN."""

Entropies = Tensor | Sequence[Sequence[float]]


@dataclass(frozen=True)
class HeadReport:
    """Entropies of all heads and the verdict on them.

    Attributes:
        head_entropy_nats_LH: mean row entropy of each head.
        maximum_nats: m, the largest of them.
        log_context_nats: log T, the paper's maximum.
        attainable_maximum_nats: mean row entropy of uniform causal attention, the true maximum.
        share_per_range: shares of the heads in [0, m/4), [m/4, m/2), [m/2, 3m/4), [3m/4, m].
        share_per_range_of_log_context: the share of heads in each range, by quarters of log T.
        overload: more than DISPROPORTIONATE_SHARE of the heads of the early layers (the first half; a middle one counts) are overloaded:
            in [3m/4, m] and at NEAR_UNIFORM_SHARE of the attainable maximum or above.
        collapse: more than DISPROPORTIONATE_SHARE of the heads of the deep layers (all others; of a single layer, that one) are
            collapsed: below NEAR_ZERO_SHARE of log T.
        overloaded_layers: early layers (0-based) with more than DISPROPORTIONATE_SHARE of overloaded heads. May name a layer without
            `overload` being true of the early layers together.
        collapsed_layers: deep layers with more than DISPROPORTIONATE_SHARE of collapsed heads.
    """

    head_entropy_nats_LH: tuple[tuple[float, ...], ...]
    maximum_nats: float
    log_context_nats: float
    attainable_maximum_nats: float
    share_per_range: tuple[float, float, float, float]
    share_per_range_of_log_context: tuple[float, float, float, float]
    overload: bool
    collapse: bool
    overloaded_layers: tuple[int, ...]
    collapsed_layers: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, by field name."""
        return asdict(self)


def attainable_maximum_nats(context: int) -> float:
    """Largest mean row entropy that causal attention over T positions can have: the mean of log(i + 1) for i below T, log(T!) / T.

    Raises:
        ValueError: if the context is below 1.
    """
    if context < 1:
        raise ValueError(f"The context must be at least 1 token, not {context}.")
    return math.lgamma(context + 1) / context


def summarise(head_entropy_nats_LH: Entropies, context: int) -> HeadReport:
    """Ranges and verdict of a model's head entropies.

    Args:
        head_entropy_nats_LH: (L, H), each the mean of a head's row entropies over batch and all T positions.
        context: T.

    Raises:
        ValueError: if the context is below 2, or the entropies are not an L x H table of finite numbers between 0 and log T.
    """
    entropy_LH = _table(head_entropy_nats_LH, context)
    log_context_nats, attainable_nats = math.log(context), attainable_maximum_nats(context)
    if not bool(((entropy_LH >= -1e-3) & (entropy_LH <= log_context_nats + 1e-3)).all()):
        raise ValueError(f"Head entropies must be finite and between 0 and log T = {log_context_nats:.4f} nats: has the training diverged?")
    entropy_LH = entropy_LH.clamp_min(0)
    maximum_nats = float(entropy_LH.max())
    early, deep, overloaded_LH, collapsed_LH = _flags(entropy_LH, context)
    layers = entropy_LH.shape[0]
    return HeadReport(
        head_entropy_nats_LH=tuple(tuple(row) for row in entropy_LH.tolist()),
        maximum_nats=maximum_nats,
        log_context_nats=log_context_nats,
        attainable_maximum_nats=attainable_nats,
        share_per_range=_shares(entropy_LH, maximum_nats),
        share_per_range_of_log_context=_shares(entropy_LH, log_context_nats),
        overload=_overfull(overloaded_LH[early]),
        collapse=_overfull(collapsed_LH[deep]),
        overloaded_layers=tuple(layer for layer in range(layers)[early] if _overfull(overloaded_LH[layer])),
        collapsed_layers=tuple(layer for layer in range(layers)[deep] if _overfull(collapsed_LH[layer])),
    )


def overload_and_collapse_shares(head_entropy_nats_LH: Entropies, context: int) -> tuple[float, float]:
    """The share of the early layers' heads that are overloaded, and of the deep layers' heads that are collapsed.

    Above DISPROPORTIONATE_SHARE they are what `summarise` calls overload and collapse.

    Args:
        head_entropy_nats_LH: (L, H), as for `summarise`.
        context: T.

    Raises:
        ValueError: if the context is below 2 or the entropies are not an L x H table.
    """
    early, deep, overloaded_LH, collapsed_LH = _flags(_table(head_entropy_nats_LH, context).clamp_min(0), context)
    return float(overloaded_LH[early].double().mean()), float(collapsed_LH[deep].double().mean())


def silent_layers(head_entropy_nats_LH: Entropies, context: int) -> tuple[int, ...]:
    """Layers (0-based) whose every head has fallen to about zero entropy, below SILENT_SHARE of log T: divergence is near.

    Takes the entropies of a run that is going wrong: a head that is NaN is not counted as silent.

    Raises:
        ValueError: if the context is below 2 or the entropies are not an L x H table.
    """
    silent_LH = _table(head_entropy_nats_LH, context) < SILENT_SHARE * math.log(context)
    return tuple(layer for layer, silent in enumerate(silent_LH.all(dim=1).tolist()) if silent)


def _table(head_entropy_nats_LH: Entropies, context: int) -> Tensor:
    entropy_LH = torch.as_tensor(head_entropy_nats_LH, dtype=torch.float64, device="cpu").detach()
    if context < 2 or entropy_LH.ndim != 2 or entropy_LH.numel() == 0:
        raise ValueError(f"Need an L x H table of entropies and a context of at least 2, not {tuple(entropy_LH.shape)} and {context}.")
    return entropy_LH


def _flags(entropy_LH: Tensor, context: int) -> tuple[slice, slice, Tensor, Tensor]:
    """Which layers are early and which deep, and which heads (L, H) are overloaded and which collapsed, wherever they lie."""
    layers = entropy_LH.shape[0]
    early = slice(0, (layers + 1) // 2)
    deep = slice(layers // 2, layers) if layers == 1 else slice((layers + 1) // 2, layers)
    diffuse_LH = entropy_LH >= NEAR_UNIFORM_SHARE * attainable_maximum_nats(context)
    return early, deep, (entropy_LH >= 0.75 * entropy_LH.max()) & diffuse_LH, entropy_LH < NEAR_ZERO_SHARE * math.log(context)


def _shares(entropy_LH: Tensor, maximum_nats: float) -> tuple[float, float, float, float]:
    """Shares by quarters of the maximum, the last one closed; with a maximum of 0 every head is in the first."""
    if maximum_nats == 0:
        return 1.0, 0.0, 0.0, 0.0
    quarter_LH = (4 * entropy_LH / maximum_nats).floor().clamp_max(3).long()
    first, second, third, fourth = (torch.bincount(quarter_LH.flatten(), minlength=4) / quarter_LH.numel()).tolist()
    return first, second, third, fourth


def _overfull(flags: Tensor) -> bool:
    return float(flags.double().mean()) > DISPROPORTIONATE_SHARE
