"""A model whose numbers do not fit the small ring is refused by name, before anything is prepared."""

from __future__ import annotations

import numpy as np
import pytest
from tests.private.prepared.answers import exported

from hushlm.private.prepared.range_check import check_range, largest_compared


@pytest.mark.parametrize("name", ["SM2+R", "SM+LN+G", "SM2+ScFuFFN", "PS3(th,qk)+LN+Q"])
def test_models_as_they_are_trained_fit(name: str) -> None:
    _, export = exported(name)
    check_range(export.description, export.weights)


@pytest.mark.parametrize(
    ("tensor", "named"),
    [("0.query_key_value.bias", "attention scores"), ("1.ffn_expand.bias", "FFN hidden values"), ("head.bias", "logits")],
)
def test_what_is_too_large_is_named(tensor: str, named: str) -> None:
    _, export = exported("SM2+R")
    limit = largest_compared(export.description.engine.fraction_bits)
    assert limit == 2.0**12
    weights = dict(export.weights)
    weights[tensor] = weights[tensor] + limit
    with pytest.raises(ValueError, match=f"The {named} of a sample prompt reach"):
        check_range(export.description, weights)
    weights[tensor] = weights[tensor] * np.nan
    with pytest.raises(ValueError, match="sample prompt reach nan"):
        check_range(export.description, weights)
