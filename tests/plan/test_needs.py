"""What is prepared follows from the plan: for every architecture that can be exported nothing is left out."""

from __future__ import annotations

import pytest

from hushlm.architectures import REGISTRY, parse
from hushlm.config import ModelShape
from hushlm.plan import PUBLISHED, Scores, bucket_length, decode_plan, prefill_plan
from hushlm.plan.needs import (
    AttendNeed,
    CentreNeed,
    ProjectNeed,
    SquareNeed,
    answer_needs,
    covers,
    left_to_engine,
    pass_needs,
)

SHAPE = ModelShape(layers=6, heads=2, width=16, context=128, vocabulary=96)


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_every_step_of_what_is_exported_has_a_prepared_form(architecture: object) -> None:
    architecture = parse(str(architecture))
    assert left_to_engine(prefill_plan(architecture, SHAPE, 64)) == []
    assert left_to_engine(decode_plan(architecture, SHAPE, 64)) == []


def test_what_is_left_to_the_engine_is_named() -> None:
    steps = left_to_engine(
        prefill_plan(parse("SM+LN+G"), ModelShape(layers=1, heads=2, width=16, context=32, vocabulary=96), 32, None, PUBLISHED)
    )
    assert steps == ["norm_attention", "norm_ffn", "ffn_activation", "final_norm"]


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_what_is_prepared_serves_every_prompt_of_the_bucket(architecture: object) -> None:
    architecture = parse(str(architecture))
    tokens = 34
    prepared = answer_needs(architecture, SHAPE, 32, tokens)
    for length in (1, 20, 32):
        opened: dict[str, int] = {}
        plans = [prefill_plan(architecture, SHAPE, 32)]
        plans += [decode_plan(architecture, SHAPE, bucket_length(length + index, SHAPE.context)) for index in range(1, tokens)]
        for ready, plan in zip(prepared, plans, strict=True):
            needs = [need for _, each in pass_needs(plan, opened) for need in each]
            assert len(needs) == len(ready)
            assert all(covers(one, need) for one, need in zip(ready, needs, strict=True))


def test_keys_and_values_are_opened_once() -> None:
    needs = [need for each in answer_needs(parse("SM2+R"), SHAPE, 64, 5) for need in each if isinstance(need, AttendNeed)]
    caches = {need.cache for need in needs}
    assert len(caches) == 2 * SHAPE.layers
    for cache in caches:
        # The prompt's rows, padding included, then one a further token.
        assert [need.new for need in needs if need.cache == cache] == [64, 1, 1, 1, 1]
        assert [need.before for need in needs if need.cache == cache] == [0, 64, 65, 66, 67]


def test_one_mask_of_the_centred_rows_serves_variance_and_division() -> None:
    (needs,) = answer_needs(parse("SM2+LN+R"), SHAPE, 32, 1)
    # Before attention and FFN of every layer, and before the head; in the last layer the FFN's and the head's are of one row.
    assert [need.rows for need in needs if isinstance(need, CentreNeed)] == [32] * (2 * SHAPE.layers - 1) + [1, 1]


def test_a_plan_s_products_and_squares_are_all_there() -> None:
    plan = prefill_plan(parse("SM+LN+G"), SHAPE, 32)
    needs = [need for _, each in pass_needs(plan, {}) for need in each]
    names = [need.weight for need in needs if isinstance(need, ProjectNeed)]
    assert len(names) == len(set(names)) == 1 + 4 * SHAPE.layers + 1 + 1, "embedding, four a layer, the last one's query apart, head"
    # Six squarings of every score, two squares in each GELU, one in the reciprocals of row sums.
    assert sum(isinstance(need, SquareNeed) for need in needs) == (6 + 2 + 1) * SHAPE.layers
    assert sum(isinstance(step.operation, Scores) for step in plan.steps) == SHAPE.layers


@pytest.mark.parametrize(("bucket", "tokens"), [(20, 1), (32, 0), (32, 128), (160, 1)])
def test_lengths_that_cannot_be_are_refused(bucket: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="Nothing can be prepared"):
        answer_needs(parse("SM2+R"), SHAPE, bucket, tokens)
