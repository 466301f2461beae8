"""The figures that were published for private inference, beside this project's predictions, row by row."""

from __future__ import annotations

from typing import Any

from hushlm.cost.counts import flops, nonlinear_operations
from hushlm.cost.network import WAN
from hushlm.cost.pricing import price
from hushlm.cost.published import published_rows
from hushlm.plan import PUBLISHED, prefill_plan

__all__ = ["NOTE", "against_paper"]

NOTE = (
    "Bytes are both directions for one token, embedding and head included. The published rows do not say which forms of GELU and "
    "exponential they use: `as published` assumes the engine's own (tanh GELU by Chebyshev polynomials, exp as 6 products x * x, "
    "affine LayerNorm, all positions through the head), on Cheetah (SPU 0.9.5) where the paper used BumbleBee's fork. `Hush` is the "
    "program that runs here; for softmax-only models it keeps the function, for G it takes a polynomial of stated error."
)


def against_paper() -> list[dict[str, Any]]:
    """One row for each published row, as plain JSON values.

    Floating-point operations (FLOPs) and nonlinear operations agree with the paper because they are counted by its own convention. The
    bytes are a prediction for another engine than the paper's.
    """
    rows = []
    for row in published_rows():
        counted = flops(row.architecture, row.shape)
        context = row.shape.context
        plain = price(prefill_plan(row.architecture, row.shape, context, rewrites=PUBLISHED))
        ours = price(prefill_plan(row.architecture, row.shape, context), network=WAN)
        rows.append(
            {
                "table": row.table,
                "dataset": row.dataset,
                "architecture": str(row.architecture),
                "layers": row.shape.layers,
                "heads": row.shape.heads,
                "width": row.shape.width,
                "context": context,
                "vocabulary": row.shape.vocabulary,
                "nonlinear_operations": [str(operation) for operation in nonlinear_operations(row.architecture, row.shape)],
                "ffn_gflops": counted.ffn / 1e9,
                "attn_gflops": counted.attention / 1e9,
                "bytes_as_published_forms": plain.total.bytes,
                "bytes": ours.total.bytes,
                "seconds_wan": ours.total.seconds,
                "ratio_as_published_forms": plain.total.bytes / row.bytes,
                "ratio": ours.total.bytes / row.bytes,
                "published": {
                    "ffn_gflops": row.ffn_gflops,
                    "attn_gflops": row.attention_gflops,
                    "bytes": row.bytes,
                    "minutes": row.minutes,
                },
            }
        )
    return rows
