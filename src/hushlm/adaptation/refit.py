"""Another activation, and the map after it fitted again in closed form: layer by layer, towards the stream of the model as it was.

After block l the original's stream is t (N, D), on the same text. The rewritten model, its earlier layers fitted already, has x_sa before
its FFN's contraction and a (N, F) inside it; with A = [a, 1] and U = [W_out, b_out] it should reach t = x_sa + A U. The ridge regression

    U = U_0 + dU,    dU = argmin  sum_n w_n |t_n - x_sa,n - A_n (U_0 + dU)|^2 + lambda |S dU|^2

has rows weighted by w_n = 1 / mean(t_n^2), so that the few tokens with very large entries do not decide it, and S = diag of the columns'
root mean squares, so that lambda has no unit. lambda is the best of a few on windows that were not fitted on; none of them being better
than U_0, the layer stays as it is.

Legend: N windows, T tokens, D width, F FFN width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hushlm.model.language_model import LanguageModel

__all__ = ["RefittedLayer", "refit"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_BATCH = 4
"""Windows of one forward pass."""


@dataclass(frozen=True)
class RefittedLayer:
    """How far a layer's stream is from the original's, on text that was not fitted on.

    Attributes:
        layer: its number.
        before, after: root mean square of the difference, as a share of the original's, before and after the contraction was fitted.
        ridge: lambda; None where the layer stayed as it was.
    """

    layer: int
    before: float
    after: float
    ridge: float | None


@dataclass
class _Sums:
    """What a weighted least-squares fit needs of its rows: A^T A, A^T R and R^T R, of residuals R."""

    gram: Tensor
    moment: Tensor
    square: float = 0.0
    rows: int = 0

    @staticmethod
    def empty(inner: int, outer: int) -> _Sums:
        return _Sums(torch.zeros(inner, inner, dtype=torch.float64), torch.zeros(inner, outer, dtype=torch.float64))

    def add(self, a_NF: Tensor, residual_ND: Tensor, weight_N1: Tensor) -> None:
        a_NF, residual_ND = (x * weight_N1.sqrt() for x in (a_NF.double(), residual_ND.double()))
        self.gram += a_NF.T @ a_NF
        self.moment += a_NF.T @ residual_ND
        self.square += float(residual_ND.square().sum())
        self.rows += residual_ND.numel()

    def error(self, change_FD: Tensor | None) -> float:
        """The root mean square of R - A dU."""
        total = self.square
        if change_FD is not None:
            total += float((change_FD * (self.gram @ change_FD)).sum() - 2 * (change_FD * self.moment).sum())
        return (max(total, 0.0) / self.rows) ** 0.5


@torch.no_grad()
def refit(model: LanguageModel, original: LanguageModel, fit_NT: Tensor, check_NT: Tensor) -> list[RefittedLayer]:
    """Fit the contractions of a rewritten model, in place, first layer first.

    Args:
        model: the rewritten one; FFNs whose contraction is scaled (ScFFN, WNorm, SNorm) or that have none are left alone.
        original: the model that it was, of the same shape.
        fit_NT: windows to fit on.
        check_NT: windows by which lambda is chosen.

    Returns: what it did to each layer that has such an FFN.
    """
    windows_NT, fitted = torch.cat([fit_NT, check_NT]), len(fit_NT)
    x_NTD, t_NTD, found = _embedded(model, windows_NT), _embedded(original, windows_NT), []
    for layer, (block, wanted) in enumerate(zip(model.blocks, original.blocks, strict=True)):
        t_NTD = _through(wanted, t_NTD)
        contraction = getattr(block.feed_forward, "contract", None)
        scaled = hasattr(block.feed_forward, "alpha") or (contraction is not None and parametrize.is_parametrized(contraction))
        if isinstance(contraction, nn.Linear) and not scaled:
            found.append(_refit_layer(layer, block, contraction, x_NTD, t_NTD, fitted))
        x_NTD = _through(block, x_NTD)
    return found


def _embedded(model: LanguageModel, windows_NT: Tensor) -> Tensor:
    x_NTD = model.embedding(windows_NT)
    return x_NTD if model.positions is None else x_NTD + model.positions.weight[: windows_NT.shape[1]]


def _through(block: nn.Module, x_NTD: Tensor) -> Tensor:
    return torch.cat([block(part_BTD)[0] for part_BTD in x_NTD.split(_BATCH)])


def _refit_layer(layer: int, block: nn.Module, contraction: nn.Linear, x_NTD: Tensor, t_NTD: Tensor, fitted: int) -> RefittedLayer:
    biased = contraction.bias is not None
    fit, check = (_sums(block, contraction, x_NTD[part], t_NTD[part]) for part in (slice(fitted), slice(fitted, None)))
    scale_F = fit.gram.diagonal().clamp_min(fit.gram.diagonal().max() * 1e-9)
    before = least = check.error(None)
    best, chosen = None, None
    for ridge in _RIDGES:
        change_FD = torch.linalg.solve(fit.gram + torch.diag(ridge * scale_F), fit.moment)
        if (error := check.error(change_FD)) < least:
            best, chosen, least = change_FD, ridge, error
    if best is not None:
        inner = contraction.in_features
        # New tensors: those that the two models share stay as they are.
        contraction.weight = nn.Parameter(contraction.weight + best[:inner].T.to(contraction.weight.dtype))
        if biased:
            contraction.bias = nn.Parameter(contraction.bias + best[inner].to(contraction.bias.dtype))
    return RefittedLayer(layer, before, least, chosen)


def _sums(block: nn.Module, contraction: nn.Linear, x_NTD: Tensor, t_NTD: Tensor) -> _Sums:
    """Of a layer on some windows: what its contraction is given, and what is missing to the wanted stream."""
    biased = contraction.bias is not None
    sums = _Sums.empty(contraction.in_features + biased, contraction.out_features)
    for part_BTD, wanted_BTD in zip(x_NTD.split(_BATCH), t_NTD.split(_BATCH), strict=True):
        with _inputs_of(contraction) as inputs:
            y_BTD = block(part_BTD)[0]
        a_NF, t_ND = inputs[0].flatten(0, 1), wanted_BTD.flatten(0, 1)
        if biased:
            a_NF = torch.cat([a_NF, torch.ones_like(a_NF[:, :1])], 1)
        sums.add(a_NF, t_ND - y_BTD.flatten(0, 1), 1 / t_ND.double().square().mean(1, keepdim=True).clamp_min(1e-12))
    return sums


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the block runs."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()
