"""The rows of metrics.jsonl, and the file beside the checkpoint in which they can be read while a run is going on.

Legend: H heads, L layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hushlm.entropy import summarise
from hushlm.files import write_atomic
from hushlm.training.team import whole

__all__ = ["LiveRows", "entropy_verdict", "layer_gradients", "lines", "statistics"]

_LAYER = re.compile(r"blocks\.(\d+)\.")


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def entropy_verdict(head_entropy_nats_LH: Sequence[Sequence[float]], context: int) -> dict[str, Any]:
    """`summarise` on a batch's head entropies: shares by quarters of the largest and of log T, overload, collapse."""
    report = summarise(head_entropy_nats_LH, context)
    return {
        "share_per_range": list(report.share_per_range),
        "share_per_range_of_log_context": list(report.share_per_range_of_log_context),
        "overload": report.overload,
        "overloaded_layers": list(report.overloaded_layers),
        "collapse": report.collapse,
        "collapsed_layers": list(report.collapsed_layers),
    }


def layer_gradients(model: nn.Module, layers: int) -> tuple[list[float], list[int]]:
    """Norm of each layer's gradient, before clipping, and how many of its numbers are not finite; every rank has to ask.

    A layer whose norm is finite has no number that is not, so counting costs nothing on a healthy step.
    """
    square_L = [torch.zeros((), dtype=torch.float64) for _ in range(layers)]
    gradients_L: list[list[Tensor]] = [[] for _ in range(layers)]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and (found := _LAYER.search(name)):
            gradients_L[int(found[1])].append(parameter.grad)
    for layer, gradients in enumerate(gradients_L):
        for kind in ([g for g in gradients if isinstance(g, DTensor)], [g for g in gradients if not isinstance(g, DTensor)]):
            if kind:
                norm = nn.utils.get_total_norm(kind)
                square_L[layer] = square_L[layer] + whole(norm).double() ** 2
    norms = torch.stack(square_L).sqrt()
    bad = [0 if norms[layer].isfinite() else sum(int((~whole(g).isfinite()).sum()) for g in gradients_L[layer]) for layer in range(layers)]
    return norms.tolist(), bad


def statistics(tensors: Sequence[Tensor]) -> dict[str, float] | None:
    """Mean, least and greatest over all numbers, None without any; every rank has to ask."""
    if not tensors:
        return None
    values = torch.cat([whole(tensor).flatten() for tensor in tensors])
    return {"mean": values.mean().item(), "min": values.min().item(), "max": values.max().item()}


class LiveRows:
    """`<output>.metrics.jsonl`: a row as soon as it is there. A resumed run cuts it back to the rows of its checkpoint."""

    def __init__(self, output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        output = output.absolute()
        self._path = output.with_name(f"{output.name}.metrics.jsonl")
        write_atomic(self._path, lines(rows))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines([row]))
