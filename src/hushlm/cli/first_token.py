"""What a first private token of a model costs, as the commands that make cheaper models show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hushlm.report.table import Column

if TYPE_CHECKING:
    from hushlm.config import ModelShape

__all__ = ["PRICE_COLUMNS", "first_token_price"]

_TOKENS = 128

PRICE_COLUMNS = (
    Column("bytes", "MB", lambda size: f"{size / 1e6:,.0f}", "right"),
    Column("cpu_seconds", "CPU seconds", ",.0f", "right"),
    Column("seconds", "seconds over a WAN", ",.0f", "right"),
)


def first_token_price(architecture: str, shape: ModelShape) -> dict[str, Any]:
    """Of a prompt of 128 tokens, or as many as the model reads; `tokens` says how many."""
    from hushlm.architectures import parse
    from hushlm.cost import price
    from hushlm.plan import prefill_plan

    tokens = min(_TOKENS, shape.context)
    return {"tokens": tokens, **price(prefill_plan(parse(architecture), shape, tokens)).total.to_dict()}
