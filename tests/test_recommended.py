"""The models that are recommended: registered, with an example each that says the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hushlm.architectures import REGISTRY, parse
from hushlm.config import RunConfig
from hushlm.cost import parameters, price
from hushlm.experiments.experiment import with_changes
from hushlm.plan import prefill_plan
from hushlm.recommended import RECOMMENDED
from hushlm.shapes import GPT2_SMALL

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", RECOMMENDED)
def test_the_example_is_the_point(name: str) -> None:
    point = RECOMMENDED[name]
    assert parse(point.architecture) in REGISTRY
    found = RunConfig.from_dict(yaml.safe_load((EXAMPLES / f"{name.lower()}.yaml").read_text()))
    assert (found.architecture, replace(found.shape, vocabulary=GPT2_SMALL.vocabulary)) == (point.architecture, point.shape)
    assert with_changes(found, point.training) == found


def test_smallest_first_and_all_below_the_papers_bytes() -> None:
    sizes = [parameters(parse(p.architecture), p.shape) for p in RECOMMENDED.values()]
    assert sizes == sorted(sizes)
    totals = [price(prefill_plan(parse(p.architecture), p.shape, 128)).total.bytes for p in RECOMMENDED.values()]
    assert max(totals) < 6.43e9  # arXiv 2501.03489, Table 3: EReg(SM(t)+ScFuFFN)
